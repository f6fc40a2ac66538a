"""Every Isaac GR00T calls itself 0.1.0: each probe fails when its host changes what it looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_plugin.hosts.gr00t import probes
from apt_plugin.probes import Package, failed
from tests import doctored
from tests.hosts.gr00t import needs  # noqa: F401

# Probe -> (file of the host, a pattern in it, what another commit might have there).
CHANGES = {
    "imports": ("data/types.py", r"\bMessageType\b", "Message"),
    "private names": ("model/gr00t_n1d7/setup.py", r"def _create_model", "def _make_model"),
    "trainer": ("model/registry.py", r"register_model", "register"),
    "backbone": ("model/gr00t_n1d7/gr00t_n1d7.py", r"get_backbone_cls", "backbone_class"),
    "VLM": ("model/modules/qwen3_backbone.py", r"Qwen3VLForConditionalGeneration", "Qwen4VL"),
    "text blocks": ("model/modules/dit.py", r"class AlternateVLDiT", "class MixedDiT"),
    "pipeline": ("model/gr00t_n1d7/setup.py", r"\bGr00tN1d7Pipeline\b", "Pipeline"),
    "words in the data": ("data/dataset/lerobot_episode_loader.py", r"create_language_from_meta", "language_of"),
}
# Names that our files import as well.
BOTH = {"pipeline"}


@pytest.fixture(scope="module")
def gr00t() -> Package:
    package = Package.find("gr00t")
    assert package is not None
    return package


def test_each_probe_has_its_change_and_all_hold_here(gr00t: Package) -> None:
    # "GR00T N1.7" itself is provoked in tests/core/test_gr00t_launch.py.
    assert ["GR00T N1.7", *CHANGES] == [probe.name for probe in probes.PROBES]
    assert failed(gr00t, probes.PROBES) == []


@pytest.mark.parametrize("name", CHANGES)
def test_another_commit_fails_the_probe_of_what_it_changed(gr00t: Package, tmp_path: Path, name: str) -> None:
    told = failed(doctored.copy(gr00t, tmp_path, *CHANGES[name]), probes.PROBES)
    assert {line.partition(":")[0] for line in told} == {name} | ({"imports"} if name in BOTH else set()), told
