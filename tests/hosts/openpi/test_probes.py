"""openpi calls itself 0.1.0 whatever it holds: each probe fails when its host changes what it looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_plugin.hosts.openpi import probes
from apt_plugin.hosts.openpi.private import PRIVATE
from apt_plugin.probes import Package, Private, failed
from tests import doctored, private

# Probe -> (file of the host, a pattern in it, what another commit might have there).
CHANGES = {
    "π0.5": ("models/pi0_config.py", r"discrete_state_input", "state_as_text"),
    "imports": ("training/weight_loaders.py", r"^", "# moved\n"),
    "private names": ("serving/websocket_policy_server.py", r"\b_handler\b", "_serve_one"),
    "data loader": ("training/data_loader.py", r"def transform_dataset", "def transformed"),
    "checkpoints": ("training/checkpoints.py", r"def restore_state", "def load_state"),
    "suffix": ("models/pi0.py", r"(def embed_suffix\(\s*self, )obs", r"\1state"),
    "π0.5 prompt": ("models/tokenizer.py", r"Task: ", "Instruction: "),
    "train configs": ("training/config.py", r"ema_decay", "ema_rate"),
    "PyTorch model": ("models_pytorch/pi0_pytorch.py", r"class PI0Pytorch", "class Pi0Torch"),
}


# Names that our files import as well.
BOTH = {"PyTorch model"}


@pytest.fixture(scope="module")
def openpi() -> Package:
    package = Package.find("openpi")
    assert package is not None
    return package


def test_each_probe_has_its_change_and_all_hold_here(openpi: Package) -> None:
    assert list(CHANGES) == [probe.name for probe in probes.PROBES]
    assert failed(openpi, probes.PROBES) == []


@pytest.mark.parametrize("name", CHANGES)
def test_another_commit_fails_the_probe_of_what_it_changed(openpi: Package, tmp_path: Path, name: str) -> None:
    changed = doctored.copy(openpi, tmp_path, *CHANGES[name])
    if name == "imports":
        (changed.root / CHANGES[name][0]).unlink()
    told = failed(changed, probes.PROBES)
    assert {line.partition(":")[0] for line in told} == {name} | ({"imports"} if name in BOTH else set()), told


def test_a_commit_before_pi05_is_told_apart(openpi: Package, tmp_path: Path) -> None:
    """doctor said yes to one of July 2025, which `run` could not import."""
    changed = doctored.copy(openpi, tmp_path, "models/pi0_config.py", r"\bpi05\b", "pi0_next")
    assert "Pi0Config.pi05" in failed(changed, probes.PROBES)[0]


@pytest.mark.parametrize("entry", [entry for entry in PRIVATE if not entry.package], ids=lambda entry: entry.name)
def test_each_private_name_is_missed(entry: Private, openpi: Package, tmp_path: Path) -> None:
    (told,) = doctored.without(openpi, tmp_path, entry)
    assert told.startswith(f"private names: openpi.{entry.module} has no {entry.name} (private: ")


def test_no_private_method_of_a_host_is_overridden_unlisted(openpi: Package) -> None:
    """A hook of the host's own that it renamed would never be called again, and nobody would notice."""
    known = {entry.last for entry in PRIVATE}
    found = private.overrides(Path(probes.__file__).parent, openpi)
    assert not {name: place for name, place in found.items() if name not in known}
