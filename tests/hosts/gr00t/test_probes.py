"""Every Isaac GR00T calls itself 0.1.0: each probe fails when its host changes what it looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_plugin.hosts.gr00t import probes
from apt_plugin.hosts.gr00t.private import PRIVATE
from apt_plugin.probes import Package, Private, failed
from tests import doctored, private
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
# What falls with them.
MORE = {"pipeline": {"imports", "private names"}}


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
    assert {line.partition(":")[0] for line in told} == {name} | MORE.get(name, set()), told


@pytest.mark.parametrize("entry", [entry for entry in PRIVATE if not entry.package], ids=lambda entry: entry.name)
def test_each_private_name_is_missed(entry: Private, gr00t: Package, tmp_path: Path) -> None:
    (told,) = doctored.without(gr00t, tmp_path, entry)
    assert told.startswith(f"private names: gr00t.{entry.module} has no {entry.name} (private: ")


def test_no_private_method_of_a_host_is_overridden_unlisted(gr00t: Package) -> None:
    """A hook of the host's own that it renamed would never be called again, and nobody would notice."""
    known = {entry.last for entry in PRIVATE}
    found = private.overrides(Path(probes.__file__).parent, gr00t)
    assert not {name: place for name, place in found.items() if name not in known}
