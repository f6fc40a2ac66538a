"""`--recipe warmup` on Isaac GR00T's own trainer: the VLM bit for bit what it was, then trained."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import itertools
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from apt_plugin.backends.torch_groot_groups import in_vlm
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import warmup
from apt_plugin.hosts.gr00t.adapter import GrootAdapter
from apt_plugin.launch import split
from apt_plugin.run import staged
from tests import processes
from tests.hosts.gr00t import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SCRIPT = "gr00t/experiment/launch_finetune.py"


def launched(word, where, out, *more, recipe="warmup"):
    command = [
        sys.executable, "-m", "apt_plugin", word, SCRIPT, "--base-model-path", "base2", "--dataset-path", "data",
        "--embodiment-tag", tiny.TAG, "--output-dir", str(out), "--max-steps", "4", "--save-steps", "1",
        "--global-batch-size", "4", "--dataloader-num-workers", "0", "--num-shards-per-epoch", "10",
        "--episode-sampling-rate", "1.0", "--recipe", recipe, "--apt.frozen_share", "0.5", *more,
    ]  # fmt: skip
    done = processes.run(command, cwd=where, env=tiny.environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def train(where, out, *more, recipe="warmup"):
    told = launched("run", where, out, *more, recipe=recipe).stderr
    return re.findall(r"APT: step (\d) of 4: the VLM (is frozen for the first 2|trains from here on)", told)


def test_a_check_looks_and_trains_nothing(where, tmp_path):
    told = launched("check", where, tmp_path / "out", "--tune-llm").stdout
    assert "note: of the VLM, nothing trains for the first 2 of 4 steps, then what your command trains" in told
    assert not (tmp_path / "out").exists()


def weights(folder):
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def moved(before, after):
    """Whether the VLM did, and the rest."""
    assert before.keys() == after.keys()
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    return any(map(in_vlm, changed)), any(not in_vlm(name) for name in changed)


def test_the_vlm_is_still_then_trains_also_in_a_resumed_run(where, tmp_path):
    out = tmp_path / "out"
    told = train(where, out, "--tune-llm", "--save-total-limit", "9")
    assert told == [("0", "is frozen for the first 2"), ("2", "trains from here on")]
    found = [weights(where / "base2"), *(weights(out / f"checkpoint-{step}") for step in (1, 2, 3, 4))]
    halves = [moved(a, b) for a, b in itertools.pairwise(found)]
    # The host's own learning rate is zero at its first step.
    assert halves == [(False, False), (False, True), (True, True), (True, True)]
    assert not [name for name in found[4] if "apt_" in name]
    assert not (out / "checkpoint-4/apt.json").exists()
    for step in (2, 3, 4):
        shutil.rmtree(out / f"checkpoint-{step}")
    told = train(where, out, "--tune-llm", "--save-total-limit", "9", "--resume-from-checkpoint")
    assert told == [("1", "is frozen for the first 2"), ("2", "trains from here on")]
    again = [weights(out / f"checkpoint-{step}") for step in (1, 2, 3)]
    assert [moved(a, b) for a, b in itertools.pairwise(again)] == [(False, True), (True, True)]


def test_stage_2_keeps_the_vlm_still_for_its_share_of_the_steps(where, tmp_path):
    out = tmp_path / "out"
    quick = ("--apt.noise_draws", "1", "--apt.listen", "0", "--apt.prove", "false", "--apt.gap_every", "0")
    steps = ("--apt.stage1.max-steps", "1", "--apt.stage2.max-steps", "4", "--save-total-limit", "9")
    told = train(where, out, "--tune-llm", *quick, *steps, recipe="apt")
    assert told == [("0", "is frozen for the first 2"), ("2", "trains from here on")]
    found = [weights(out / "stage2" / f"checkpoint-{step}") for step in (1, 2, 3, 4)]
    first = {**found[0], **weights(out / "stage1/checkpoint-1")}
    assert [moved(a, b)[0] for a, b in itertools.pairwise([first, *found])] == [False, False, True, True]


def test_what_cannot_warm_up_is_refused(where, monkeypatch):
    def ask(*line: str) -> None:
        staged.carry_out(GrootAdapter(), split([*line, "--recipe", "warmup"]))

    with pytest.raises(AptError, match=r"trains nothing of it\. Write --tune-llm or --tune-visual"):
        ask(SCRIPT, "--base-model-path", "base2", "--dataset-path", "data")
    with pytest.raises(AptError, match="run_gr00t_server is not: write it behind"):
        ask("gr00t/eval/run_gr00t_server.py", "--model-path", "base2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AptError, match="Start one process, or train twice"):
        warmup.install(0.5)
