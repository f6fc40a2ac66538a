"""The documented commands, by the host's own config name, on what it says of data, model, base and transforms.

Sizes and step counts are made small from outside (preload.py), the data set is a real LeRobot one under its own name.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from apt_plugin.stages import read_record
from tests import noise
from tests.hosts.openpi import bases, tiny
from tests.hosts.openpi.test_round_trip import (
    SCRIPTS,
    environment,
    log_of,
    pytestmark,  # noqa: F401
    start,
)

DATA = "physical-intelligence/libero"
NAME = "pi05_libero"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("openpi_stock")
    write = [sys.executable, "-m", "tests.hosts.openpi.frames", DATA]
    subprocess.run(write, cwd=root, env=environment(root, **real(root)), check=True)
    return root


def real(root) -> dict[str, str]:
    return {"HF_LEROBOT_HOME": str(root / "data"), "APT_TEST_FRAMES": "1", "HF_HUB_OFFLINE": "1"}


def run(root, *command: str) -> str:
    log = root / "log.txt"
    begin = len(log.read_text()) if log.is_file() else 0
    assert start(root, *command, **real(root)).wait() == 0, log_of(root)
    return log.read_text()[begin:]


def test_the_first_command_of_the_documentation(root):
    """pi05_libero feeds no state: both stages, the proofs between them and `listen` behind them, exit status 0."""
    log = run(root, str(SCRIPTS / "train.py"), NAME, "--exp-name=e1", "--recipe", "apt")
    assert log.count("Stage 1: the policy is fed no state of the robot") == 1  # three processes said it
    noise.check(log)
    assert "not claimed" in log
    assert "All contracts hold." in log
    for stage, last in ((1, 0), (2, 2)):  # 4 steps are the config's own: one of them is Stage 1's
        record = read_record(root / f"checkpoints/{NAME}_apt{stage}/e1/{last}/assets")
        assert (record.stage, record.recipe.vlm) == (stage, "full")  # pi05_libero freezes nothing
    assert record.vlm != record.vlm_start
    assert (root / f"checkpoints/{NAME}_apt/e1/listen.json").is_file(), log[-3000:]


def test_the_same_in_pytorch(root):
    with tiny.small():
        source = bases.write_jax(root / "pi05_base", tiny.stock("pi05", action_dim=32))
        base = bases.write_torch(source, root / "pi05_base_pytorch", tiny.stock("pi05", action_dim=32))
    more = ["--exp-name=t1", f"--pytorch-weight-path={base}", "--recipe", "apt", "--apt.listen", "4"]
    log = run(root, str(SCRIPTS / "train_pytorch.py"), NAME, *more)
    noise.check(log)
    assert "All contracts hold." in log
    for stage, last in ((1, 1), (2, 3)):
        assert read_record(root / f"checkpoints/{NAME}_apt{stage}/t1/{last}/assets").stage == stage


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--apt.stage2.model.action-horizon=6", "--model.action-horizon is 6, Stage 1 was trained with 10"),
        ("--apt.stage2.num-train-stepz=6", "num-train-steps"),  # tyro's own words
    ],
)
def test_what_stage_2_would_be_refused_for_ends_the_run_before_stage_1(root, flag, words):
    assert start(root, str(SCRIPTS / "train.py"), NAME, "--exp-name=no", "--recipe", "apt", flag, **real(root)).wait()
    assert words in log_of(root)
    assert not (root / f"checkpoints/{NAME}_apt1/no").exists()
