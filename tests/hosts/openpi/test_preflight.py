"""`apt-plugin check` on openpi: findings in this host's words, on real LeRobot data and the host's own config."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from tests import processes
from tests.hosts.openpi.test_round_trip import (
    SCRIPTS,
    environment,
    pytestmark,  # noqa: F401
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set with one number that is none, of which the toy config has statistics."""
    root = tmp_path_factory.mktemp("openpi_preflight")
    more = {"HF_LEROBOT_HOME": str(root / "data"), "HF_HUB_OFFLINE": "1"}
    done = processes.run(
        [sys.executable, "-m", "tests.hosts.openpi.frames", "local/toy"], cwd=root, env=environment(root, **more)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    path = next((root / "data/local/toy/data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    table.at[0, "state"] = np.array([*table["state"][0][:-1], np.nan], np.float32)
    table.to_parquet(path)
    return root


def check(root, *flags: str) -> subprocess.CompletedProcess[str]:
    more = {"HF_LEROBOT_HOME": str(root / "data"), "APT_TEST_FRAMES": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(SCRIPTS / "train.py"), "tiny_pi05", "--recipe", "apt", *flags]
    return processes.run(
        [sys.executable, "-m", "apt_plugin", "check", *command], cwd=root, env=environment(root, **more)
    )


def test_what_would_stop_or_spoil_the_run_is_told_in_the_hosts_words(root):
    begun = time.monotonic()
    own = {"num-train-steps": 4, "lr-schedule.warmup-steps": 9}
    lengths = [f"--apt.stage{stage}.{name}={value}" for stage in (1, 2) for name, value in own.items()]
    done = check(root, "--model.max-token-len=30", *lengths, "--apt.norm_stats=data",
                 "--apt.stage2.data.assets.asset-id=local/absent")  # fmt: skip
    print(f"pre-flight: {time.monotonic() - begun:.1f} s")
    assert done.returncode == 1, done.stderr[-3000:]
    told = done.stdout
    assert re.search(r"error: Stage 2: the longest prompt has \d+ tokens and --model.max-token-len is 30", told)
    for stage in "12":
        assert f"error: Stage {stage}: 1 numbers of state in local/toy are NaN or infinite" in told
        assert f"warning: Stage {stage}: its 4 steps end inside a warm-up of 9 steps, at 44 %" in told
    assert "--lr-schedule.warmup-steps" in told
    assert "error: Stage 2: statistics that this policy normalises with are missing" in told
    assert "scripts/compute_norm_stats.py --config-name tiny_pi05" in told
    assert "Stage 1: statistics" not in told
    assert not (root / "checkpoints").exists()  # it only looks


def test_a_typo_in_a_flag_of_stage_2_is_refused_before_stage_1(root):
    done = check(root, "--apt.stage2.num-train-stepz=5")
    assert done.returncode == 1
    assert "num-train-stepz" in done.stderr + done.stdout
    assert "Stage 2: the host refuses these flags" in done.stderr
