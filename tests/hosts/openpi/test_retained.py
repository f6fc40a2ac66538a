"""Whether a VLM that trains still tells instructions apart as it did: on openpi's own trainers, in record and tracker.

retained_runs.py makes the runs.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from apt_plugin.hosts.openpi import retained
from apt_plugin.hosts.openpi.prove_torch import as_torch
from tests import processes
from tests.hosts.openpi import tiny
from tests.hosts.openpi.test_round_trip import environment, pytestmark  # noqa: F401

STEPS = 4
TRAINERS = ("train.py", "train_pytorch.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("openpi_retained")


def result(root, *arguments, **more):
    command = [sys.executable, "-W", "ignore", "-m", "tests.hosts.openpi.retained_runs", *arguments]
    more = {"WANDB_MODE": "offline", "WANDB_DIR": str(root / "of" / arguments[0])} | more
    Path(more["WANDB_DIR"]).mkdir(parents=True)
    # four runs in one process; 13 minutes beside seven other jobs on two cores
    done = processes.run(command, timeout=4 * processes.HANG, cwd=root, env=environment(root, **more))
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert told, done.stderr[-3000:]
    return json.loads(told[0].removeprefix("RESULT "))


@pytest.fixture(scope="module")
def runs(root):
    """The runs of a trainer, made once."""
    return functools.cache(lambda trainer: result(root, trainer))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_retention_is_one_until_the_vlm_moves(runs, trainer):
    full = runs(trainer)["full"]
    assert full["steps"] == [0.5, 2.5]
    assert full["values"][0] == pytest.approx(1, abs=1e-6)
    assert 0 < full["values"][1] < 0.999


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_frozen_vlm_has_none(runs, trainer):
    assert runs(trainer)["frozen"] == {"steps": [], "values": [], "done": 1}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_hosts_tracker_gets_our_scalars_with_its_own(root, runs, trainer):
    values = runs(trainer)["full"]["values"]
    (written,) = (root / "of" / trainer).glob("wandb/offline-run-*/*.wandb")
    names = ("apt/retention", "apt/gate_mean", "apt/blank_gap", "loss")
    told = {name: history(written, name) for name in names}
    assert [value for value, _ in itertools.groupby(told["apt/retention"])] == pytest.approx(values, abs=1e-5)
    assert len(told["loss"]) == len(told["apt/gate_mean"]) >= STEPS
    assert told["apt/blank_gap"][0] == 0  # closed at the switch


def test_behind_a_resume_nothing_is_said(runs):
    """What the VLM said when the stage began was not kept."""
    found = runs("train.py")
    assert found["resumed"] == found["full"] | {"done": STEPS + 3}


def test_two_devices_say_the_same(root, runs):
    """Batch and state are spread over them (FSDP)."""
    one = runs("train.py")
    split = result(root, "split", one["prior"], XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert split["steps"] == one["full"]["steps"]
    assert split["values"] == pytest.approx(one["full"]["values"], abs=1e-3)


def history(file: Path, name: str) -> list[float]:
    """Values of a scalar in a run that wandb wrote offline, in order: its name, and behind that the number as JSON. The
    last ones may stand there twice, in the run's summary too."""
    found = re.findall(re.escape(name.encode()) + rb"\x82\x01.(-?[\d.]+(?:e-?\d+)?)", file.read_bytes(), re.DOTALL)
    return [float(value) for value in found]


def test_another_instruction_leaves_the_state_in_the_prompt():
    """π0.5 writes the robot's state there: what the expert reads must move by the words alone."""
    with tiny.small():
        config = tiny.ours("pi05", 2)
        obs, _ = tiny.observation(config, ["pick up the cup", "stop", "stop"])
        whole = tiny.observation(config, ["stop", "pick up the cup", "pick up the cup"])[0]
    assert len(set(retained.instructions(obs))) == 2
    assert retained.instructions(obs) == retained.instructions(as_torch(obs))
    found = retained.swapped(obs, [1, 0, 0])
    for name in retained.PROMPT:
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), err_msg=name)
    assert jax.tree.structure(found) == jax.tree.structure(obs)
    assert torch.equal(as_torch(found).state, as_torch(obs).state)
