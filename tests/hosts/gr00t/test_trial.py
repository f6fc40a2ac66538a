"""`apt-plugin trial` in front of the host's own fine-tuning command: a page comes out, and nothing else is written."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import json
import sys
from pathlib import Path

import pytest

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.adapter import GrootAdapter
from apt_plugin.run.flags import Flags
from tests import processes, trials
from tests.hosts.gr00t import tiny

COMMAND = (
    f"gr00t/experiment/launch_finetune.py --base-model-path base2 --dataset-path known --embodiment-tag {tiny.TAG} "
    "--output-dir mine --max-steps 20 --save-steps 20 --global-batch-size 4 --dataloader-num-workers 0 "
    "--num-shards-per-epoch 10 --episode-sampling-rate 1.0"
).split()


def test_a_short_run_is_the_users_command_on_a_copy_with_less_of_everything(tmp_path: Path) -> None:
    from gr00t.data.stats import generate_stats

    known = tiny.dataset(tmp_path / "known", episodes=4, frames=8)
    command = [*COMMAND[:4], str(known), *COMMAND[5:], "--experiment-name", "mine"]
    pilot = GrootAdapter().pilot(command)
    with pytest.raises(AptError, match=r"has no meta/stats.json: .*a trial writes nothing of yours"):
        pilot.only([0], tmp_path / "some")
    generate_stats(known)
    only = pilot.only([1, 3], tmp_path / "some")
    tokens = pilot.short({**only, **pilot.expert_only}, ["--recipe", "apt"], tmp_path / "run", 2, 0, 1)
    assert tokens[:2] == ["-m", "gr00t.experiment.launch_finetune"]
    flags = Flags.read(tokens[2:-2], switches=True)
    wanted = {
        "dataset-path": str(tmp_path / "some"), "output-dir": str(tmp_path / "run"), "max-steps": "2",
        "save-steps": "2", "tune-llm": "false", "tune-visual": "false", "use-wandb": "false", "experiment-name": None,
    }  # fmt: skip
    assert {name: flags.get(name) for name in wanted} == wanted
    found = pilot.episodes()
    assert sorted(found.labels) == [0, 1, 2, 3]
    assert len(set(found.labels.values())) == 2
    assert found.features.shape[0] == len(found.tasks) == 4
    with pytest.raises(AptError, match="no flag for a seed"):
        pilot.short({}, [], tmp_path / "run", 2, 1, 1)
    with pytest.raises(AptError, match="A trial takes one data set"):
        GrootAdapter().pilot([*COMMAND[:4], "a:b", *COMMAND[5:]])


def test_a_trial_of_the_hosts_own_command(where: Path) -> None:
    """Without `own`: the host's own training asks for bf16, and ends where there is no GPU."""
    from gr00t.data.stats import generate_stats

    known = tiny.dataset(where / "known", episodes=10)
    generate_stats(known)
    before = {path: path.read_bytes() for path in known.rglob("*") if path.is_file()}
    flags = ["--tune-llm", "--trial.arms", "warm-up,two-stage", "--trial.frames", "6", "--trial.output", "found"]
    done = processes.run(
        [sys.executable, "-m", "apt_plugin", "trial", *COMMAND, *flags], cwd=where, env=tiny.environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert before == {path: path.read_bytes() for path in known.rglob("*") if path.is_file()}
    assert not (where / "mine").exists()
    page = json.loads((where / "found/trial.json").read_text())
    told = json.dumps(page)
    assert "two stages" in told
    assert "warm-up" in told
    assert "of 2: the VLM trains from here on" in done.stderr
    trials.check(where / "found", ("warm-up", "two-stage"), 2)
