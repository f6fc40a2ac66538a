"""`--recipe warmup` on openpi's own trainers: the VLM bit for bit what it was, then trained; the host's checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from openpi.training import optimizer, sharding
from safetensors.torch import load_file

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import loading, warmup
from apt_plugin.hosts.openpi.__main__ import load_script
from apt_plugin.hosts.openpi.adapter import OpenpiAdapter
from apt_plugin.hosts.openpi.derive import Frozen
from apt_plugin.hosts.openpi.names import VLM
from apt_plugin.hosts.openpi.optim import in_vlm
from apt_plugin.hosts.openpi.torch_model import in_vlm as in_torch_vlm
from apt_plugin.launch import split
from apt_plugin.run import staged
from tests import processes
from tests.hosts.openpi import tiny
from tests.hosts.openpi.test_round_trip import SCRIPTS, environment, pytestmark  # noqa: F401
from tests.hosts.openpi.test_traps import libero


def moved(before: dict, after: dict, vlm=in_vlm) -> tuple[bool, bool]:
    """Whether the VLM did, and the rest."""
    assert before.keys() == after.keys()
    changed = [name for name in after if not np.array_equal(np.asarray(before[name]), np.asarray(after[name]))]
    return any(map(vlm, changed)), any(not vlm(name) for name in changed)


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPTS / "train.py")


@pytest.fixture(scope="module")
def states(script):
    """The train state before the first of four steps and behind each, by the host's own compiled step: two are a
    warm-up. Beside them the state of a host that was left alone."""
    with tiny.small():
        config = settings()
        state, _ = script.init_train_state(config, jax.random.key(0), sharding.make_mesh(1), resume=False)
        batch = _batch(config)
        step = jax.jit(functools.partial(warmup.held(script.train_step, 2), config))
        found = [state]
        for _ in range(4):
            found.append(step(jax.random.key(1), found[-1], batch)[0])
        alone = jax.eval_shape(functools.partial(script.train_step, config), jax.random.key(1), state, batch)[0]
    return found, alone


def settings(**more):
    schedule = optimizer.CosineDecaySchedule(warmup_steps=1, peak_lr=1e-3)
    return libero("pi0", exp_name="e1", batch_size=2, lr_schedule=schedule, **more)


def _batch(config):
    rng = np.random.default_rng(0)

    def leaf(spec):
        if spec.dtype == np.bool_:
            return np.ones(spec.shape, bool)
        if np.issubdtype(spec.dtype, np.integer):
            return rng.integers(0, 50, spec.shape).astype(spec.dtype)
        return rng.uniform(-1, 1, spec.shape).astype(spec.dtype)

    return jax.tree.map(leaf, config.model.inputs_spec(batch_size=2))


def params(state) -> dict:
    return loading.flat(state.params.to_pure_dict())


def test_the_vlm_is_still_for_its_steps_and_trains_behind_them(states):
    found, _ = states
    pairs = list(itertools.pairwise(found))
    assert [moved(params(a), params(b)) for a, b in pairs] == [(False, True), (False, True), (True, True), (True, True)]
    averages = [loading.flat(state.ema_params.to_pure_dict()) for state in found]
    assert [moved(a, b)[0] for a, b in itertools.pairwise(averages)] == [False, False, True, True]


def kinds(tree) -> list:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def test_state_and_optimizer_are_the_hosts_own_trees(states):
    """So a checkpoint is the host's, and goes on without the recipe."""
    (_, first, *_), alone = states
    assert jax.tree.structure(first) == jax.tree.structure(alone)
    assert kinds(first) == kinds(alone)


def test_the_action_expert_takes_the_steps_of_a_frozen_vlm(script, states):
    """As the host takes them with its freeze filter: neither clipping nor moments know of the VLM in the first half."""
    found, _ = states
    with tiny.small():
        config = settings(freeze_filter=Frozen((f"^{VLM}$",)))
        learns = found[0].params.filter(config.trainable_filter)
        state = dataclasses.replace(found[0], opt_state=found[0].tx.init(learns))
        step = jax.jit(functools.partial(script.train_step, config))
        for _ in range(2):
            state = step(jax.random.key(1), state, _batch(config))[0]
    frozen, warmed = params(state), params(found[2])
    for name in frozen:
        np.testing.assert_allclose(warmed[name], frozen[name], atol=1e-7, err_msg=name)


def launched(root: Path, word: str, script: str, *flags: str, recipe: str = "warmup"):
    command = [sys.executable, "-m", "apt_plugin", word, str(SCRIPTS / script), "tiny_pi0", "--recipe", recipe]
    command += ["--save-interval=1", "--keep-period=1", *flags]
    done = processes.run(command, cwd=root, env=environment(root))
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def run(root: Path, script: str, *flags: str, recipe: str = "warmup"):
    told = re.findall(
        r"APT: step (\d) of \d: the VLM (is frozen for the first \d|trains from here on)\.",
        launched(root, "run", script, *flags, recipe=recipe).stderr,
    )
    return root / "checkpoints/tiny_pi0/e1", told


def test_the_launcher_in_jax_and_a_resumed_run(tmp_path):
    """The first four steps of five. The host's checkpoint 1 is behind two of them, so a run that it resumes begins in
    the warm-up, and 3 is behind all four."""
    flags = ("--num-train-steps=5", "--apt.frozen_share=0.8")
    told = launched(tmp_path, "check", "train.py", *flags).stdout
    assert "note: of the VLM, nothing trains for the first 4 of 5 steps, then what your command trains" in told
    assert not (tmp_path / "checkpoints").exists()
    folder, told = run(tmp_path, "train.py", *flags)
    assert told == [("0", "is frozen for the first 4"), ("4", "trains from here on")]
    halves = [(False, True), (True, True)]
    assert saved(folder) == halves
    assert not [name for name in weights(folder, 4) if "apt_" in name]
    assert not (folder / "4/assets/apt.json").exists()
    for step in (2, 3, 4):
        shutil.rmtree(folder / str(step))
    run(tmp_path, "train.py", *flags, "--resume")
    assert saved(folder) == halves


def weights(folder: Path, step: int) -> dict:
    return loading.flat(loading.read_params(folder / str(step) / "params"))


def saved(folder: Path) -> list[tuple[bool, bool]]:
    return [moved(a, b) for a, b in itertools.pairwise(weights(folder, step) for step in (1, 3, 4))]


def test_the_launcher_in_pytorch_and_a_resumed_run(tmp_path):
    folder, told = run(tmp_path, "train_pytorch.py", "--num-train-steps=4", "--apt.frozen_share=0.5")
    assert told == [("0", "is frozen for the first 2"), ("2", "trains from here on")]
    weights = {step: load_file(folder / str(step) / "model.safetensors") for step in (1, 2, 3)}
    assert moved(weights[1], weights[2], in_torch_vlm) == (False, True)
    assert moved(weights[2], weights[3], in_torch_vlm) == (True, True)
    assert not [name for name in weights[3] if "apt_" in name]
    for step in (2, 3, 4):
        if (folder / str(step)).exists():
            shutil.rmtree(folder / str(step))
    _, told = run(tmp_path, "train_pytorch.py", "--num-train-steps=4", "--apt.frozen_share=0.5", "--resume")
    assert told == [("1", "is frozen for the first 2"), ("2", "trains from here on")]
    again = {step: load_file(folder / str(step) / "model.safetensors") for step in (1, 2, 3)}
    assert moved(weights[1], again[1], in_torch_vlm) == (False, False)
    assert moved(again[1], again[2], in_torch_vlm) == (False, True)
    assert moved(again[2], again[3], in_torch_vlm) == (True, True)


@pytest.mark.parametrize("script", ["train.py", "train_pytorch.py"])
def test_stage_2_keeps_the_vlm_still_for_its_share_of_the_steps(tmp_path, script):
    """Checkpoint 2 is behind three steps in JAX, and 3 in PyTorch, whose numbers begin at 1."""
    flags = ("--apt.frozen_share=0.6", "--apt.stage1.num-train-steps=1", "--apt.stage2.num-train-steps=5")
    quick = ("--num-train-steps=6", "--apt.noise_draws=1", "--apt.listen=0", "--apt.prove=false", "--apt.gap_every=0")
    _, told = run(tmp_path, script, *flags, *quick, recipe="apt")
    assert ("0", "is frozen for the first 3") in told
    folder = tmp_path / "checkpoints/tiny_pi0_apt2/e1"
    if script == "train.py":
        found, vlm = [weights(folder, step) for step in (1, 2, 3)], in_vlm
    else:
        found, vlm = [load_file(folder / str(step) / "model.safetensors") for step in (2, 3, 4)], in_torch_vlm
    assert [moved(a, b, vlm) for a, b in itertools.pairwise(found)] == [(False, True), (True, True)]


def test_what_trains_nothing_of_the_vlm_or_has_no_expert_is_refused():
    with tiny.small():
        still = libero(freeze_filter=Frozen((f"^{VLM}$",)))
        with pytest.raises(AptError, match=r"your command trains nothing of it\. Write a config that trains it"):
            warmup.check(still, torch=False)
        warmup.check(still, torch=True)  # that trainer reads no freeze filter
        warmup.check(libero(), torch=False)
    from openpi.training import config as _config

    with pytest.raises(AptError, match="FAST"):
        warmup.check(_config.get_config("pi0_fast_libero"), torch=False)


def test_a_program_that_trains_nothing_is_refused():
    line = [str(SCRIPTS / "serve_policy.py"), "--recipe", "warmup"]
    with pytest.raises(AptError, match=r"serve_policy\.py is not: write it behind train\.py or train_pytorch.py"):
        staged.carry_out(OpenpiAdapter(), split(line))


def test_many_processes_are_refused_where_the_host_settles_what_trains(monkeypatch):
    from apt_plugin.hosts.openpi import torch_warmup
    from apt_plugin.run.replace import Replacements

    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(AptError, match="8 processes: from 8 on"):
        torch_warmup.install(torch, libero(), 0.5, Replacements())
