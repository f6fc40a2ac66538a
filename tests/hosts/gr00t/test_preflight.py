"""`apt-plugin check` on Isaac GR00T: findings in this host's words, by both of its training programs."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import importlib.util
import json
import sys
import time

import numpy as np
import pandas as pd
import pytest

from tests import processes
from tests.hosts.gr00t import tiny
from tests.hosts.gr00t.test_mixture import ROBOTS, config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # real host processes; the limit is against a hang


def check(where, *flags):
    command = [sys.executable, "-m", "apt_plugin", "check", *flags, "--recipe", "apt"]
    return processes.run(command, cwd=where, env=tiny.environment())


def finetune(where, data, *flags):
    return check(
        where, "gr00t/experiment/launch_finetune.py", "--base-model-path", "base2", "--dataset-path", str(data),
        "--embodiment-tag", tiny.TAG, "--output-dir", str(where / "checked"), "--apt.stage1.max-steps", "4",
        "--apt.stage2.max-steps", "4", *flags,
    )  # fmt: skip


def test_what_would_stop_or_spoil_the_run_is_told_in_the_hosts_words(where, tmp_path):
    data = tiny.dataset(tmp_path / "broken", annotated=False)
    path = next((data / "data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    table.at[0, "observation.state"] = np.array([*table["observation.state"][0][:-1], np.nan], np.float32)
    table.to_parquet(path)
    (data / "meta" / "stats.json").write_text(json.dumps({"action": {"mean": [0.0], "q99": [float("nan")]}}))
    begun = time.monotonic()
    done = finetune(where, data, "--apt.stage2.warmup-ratio", "1.0", "--state-dropout-prob", "1.0")
    print(f"pre-flight: {time.monotonic() - begun:.1f} s")
    assert done.returncode == 1, done.stderr[-3000:]
    told = done.stdout
    for stage in "12":
        assert f"error: Stage {stage}: 1 numbers of observation.state in {data} are NaN or infinite" in told
        assert f"error: Stage {stage}: statistics of {data} are NaN or infinite ({data}: action: q99)" in told
        assert f"warning: Stage {stage}: the policy is fed no state of the robot" in told
    assert "error: Stage 2: it learns from instructions" in told
    assert "--dataset-path" in told
    assert "warning: Stage 2: its 4 steps end inside a warm-up of 4 steps" in told
    assert "Lower --warmup-ratio, or raise --max-steps" in told
    assert not (where / "checked").exists()  # it only looks


def test_a_sound_command_is_let_through(where):
    done = finetune(where, where / "data")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "error" not in done.stdout


def test_a_typo_in_a_flag_of_stage_2_is_refused_before_stage_1(where):
    done = finetune(where, where / "data", "--apt.stage2.max-stepz", "5")
    assert done.returncode == 1
    assert "max-stepz" in done.stderr + done.stdout
    assert "Stage 2: the host refuses these flags" in done.stderr


def test_a_config_file_is_read_as_the_host_reads_it(where, tmp_path):
    path = config(tmp_path, [(where / "data", ROBOTS[0])], max_steps=7, warmup_steps=9)
    done = check(where, "gr00t/experiment/launch_train.py", "--load-config-path", str(path))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "warning: Stage 2: its 6 steps end inside a warm-up of 8 steps" in done.stdout  # of the file's 7 and 9
    assert "--training.max-steps" in done.stdout


def test_the_hosts_own_command_is_looked_at_too(where, tmp_path):
    """Through the modality flag, in the one process that there is."""
    hook = importlib.util.find_spec("apt_plugin.hosts.gr00t").submodule_search_locations[0] + "/apt_hook.py"
    data = tiny.dataset(tmp_path / "broken")
    path = next((data / "data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    table.at[0, "action"] = np.full(7, np.nan, np.float32)
    table.to_parquet(path)
    done = processes.run(
        [sys.executable, "-m", "gr00t.experiment.launch_finetune", "--base-model-path", "base2", "--dataset-path",
         str(data), "--embodiment-tag", tiny.TAG, "--output-dir", str(tmp_path / "out"), "--modality-config-path",
         hook],
        cwd=where, env=tiny.environment() | {"APT_FLAGS": "--apt.stage 1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert f"Stage 1: 7 numbers of action in {data} are NaN or infinite" in done.stderr
    assert not (tmp_path / "out").exists()
