"""`apt-plugin trial` in front of openpi's own training command: nothing of the user's is written, a page comes out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import trials
from tests.hosts.openpi.test_round_trip import SCRIPTS, environment, log_of, pytestmark, start  # noqa: F401

DATA = "me/kitchen"
COMMAND = (str(SCRIPTS / "train.py"), "tiny_pi05", "--exp-name=mine", "--num-train-steps=20", "--overwrite")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("openpi_trial")
    code = f"from tests.hosts.openpi.frames import write; write({DATA!r}, episodes=10)"
    subprocess.run([sys.executable, "-c", code], cwd=root, env=environment(root, **real(root)), check=True)
    return root


def real(root: Path) -> dict[str, str]:
    home = {"HF_LEROBOT_HOME": str(root / "data"), "APT_TEST_FRAMES": "1", "HF_HUB_OFFLINE": "1"}
    return home | {"APT_TEST_REPO": DATA, "APT_TEST_STATISTICS": DATA}


def run(root: Path, *command: str) -> int:
    return start(root, *command, plain=True, **real(root)).wait()


def test_a_trial_of_the_hosts_own_command(root: Path) -> None:
    data = root / "data" / DATA
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    flags = ("--trial.arms", "own,warm-up,gated", "--trial.frames", "6", "--trial.output", "found")
    assert run(root, "trial", *COMMAND, *flags) == 0, log_of(root)
    assert before == {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert not (root / "checkpoints").exists()
    told = (root / "found/trial.json").read_text()
    for way in ("your own training", "warm-up", "gated language in one stage"):
        assert way in told
    assert "of 2: the VLM trains from here on" in (root / "log.txt").read_text()
    trials.check(root / "found", ("own", "warm-up", "gated"), 2)


def test_what_cannot_be_tried_is_refused(root: Path) -> None:
    for command, words in (
        ([*COMMAND, "--resume"], "drop --resume"),
        ([*COMMAND, "--model.max-token-len=64"], "is opened by its config's name"),
        ([*COMMAND, "--trial.arms=own,expert-only"], "has no flag for it"),
    ):
        assert run(root, "trial", *command) == 1
        assert words in log_of(root)
