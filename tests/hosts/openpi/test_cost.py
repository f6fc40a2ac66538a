"""What a Stage-1 step costs, counted in the host's own train_step: examples/openpi_cost.py has sizes and programs.

    B batch   K noise draws

Ratios against the host's own full training in one run. Figures are printed (pytest -s).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import openpi
import pytest
from flax import nnx
from openpi.models import model as _model
from openpi.models import siglip
from openpi.training import sharding

from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.derive import freeze_filter
from apt_plugin.recipe import from_flat
from examples import openpi_cost as cost
from tests.hosts.openpi import tiny
from tests.hosts.openpi.hlo import flops

CHECKOUT = Path(openpi.__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not (CHECKOUT / "scripts/train.py").is_file(), reason="openpi is no checkout here"),
]


@pytest.fixture(scope="module")
def programs():
    """The host's step, compiled from shapes alone, float32."""
    patch = pytest.MonkeyPatch()
    patch.setattr(siglip, "Module", tiny.REAL_SIGLIP)
    patch.setattr(sys, "path", [*sys.path, str(CHECKOUT)])
    train = cost.host_trainer()
    with cost.small():
        mesh = sharding.make_mesh(1)
        chosen = cost.configs("float32", 1, pi05=False)
        yield chosen, {name: cost.compiled(train, config, mesh, True)[0] for name, config in chosen.items()}
    patch.undo()


def inputs(config):
    obs, actions = config.inputs_spec()
    cameras = {k: v for k, v in obs.images.items() if k in cost.CAMERAS}
    masks = {k: v for k, v in obs.image_masks.items() if k in cost.CAMERAS}
    return dataclasses.replace(obs, images=cameras, image_masks=masks), actions


def compiled(config, learns, loss):
    """A gradient program, compiled from shapes alone."""
    from openpi.shared import array_typing as at

    graph, state = nnx.split(nnx.eval_shape(config.create, jax.random.key(0)))

    def program(state, rng, *args):
        model = nnx.merge(graph, state)
        if learns is None:
            return loss(model, rng, *args)
        return nnx.value_and_grad(lambda m: loss(m, rng, *args), argnums=nnx.DiffState(0, learns))(model)

    with at.disable_typechecking():
        shapes = jax.eval_shape(lambda: jax.random.key(0))
        return jax.jit(program).lower(state, shapes, *inputs(config)).compile()


def stage1(stock, draws, **more):
    return apt_config(stock, 1, from_flat({"noise_draws": draws, **more}))


def test_a_stage_1_step_costs_what_the_design_allows(programs):
    configs, steps = programs
    counted = {name: flops(program) for name, program in steps.items()}
    memory = {name: program.memory_analysis().temp_size_in_bytes for name, program in steps.items()}
    full, held = counted["full training"], memory["full training"]
    for name in steps:
        print(
            f"{name:22s} {counted[name] / 1e9:8.2f} GFLOP {counted[name] / full:6.3f} x   "
            f"temp {memory[name] / 2**20:7.1f} MiB {memory[name] / held:6.3f} x"
        )
    assert counted["VLM frozen by filter"] / full > 0.6  # naive freezing is what this saves over
    assert counted["Stage 1, K=1"] / full <= 0.29
    assert counted["Stage 1, K=4"] / 4 / full <= 0.10
    assert memory["Stage 1, K=4"] / held <= 0.25  # no VLM activation is kept, whatever the draws

    stock = configs["full training"].model
    one = stage1(stock, 1)
    learns = nnx.All(nnx.Param, nnx.Not(freeze_filter(one, nnx.Nothing)))
    prefix = flops(compiled(one, None, lambda m, rng, obs, actions: m.apt_prefix(_ready(obs))))
    expert = flops(compiled(one, learns, _expert_alone))
    for draws in (1, 4):
        floor = prefix + draws * expert
        ratio = counted[f"Stage 1, K={draws}"] / floor
        print(f"K={draws}: {ratio:.3f} x the floor (prefix forward {prefix / 1e9:.2f} + K x {expert / 1e9:.2f} GFLOP)")
        assert ratio <= 1.05


def _ready(obs):
    return _model.preprocess_observation(None, obs)


def _expert_alone(model, rng, obs, actions):
    """Expert forward and backward on a cache of random numbers, which costs no matrix product (zeros would fold)."""
    shapes = jax.eval_shape(lambda: model.apt_prefix(_ready(obs)))

    def made_up(leaf):
        values = jax.random.normal(rng, leaf.shape)
        return values > 0 if leaf.dtype == jnp.bool_ else values.astype(leaf.dtype)

    cache = jax.tree.map(made_up, shapes)
    noise, time = model.draw(rng, actions, 1)
    return jnp.square(model.velocity(cache, obs.state, noise, time)).mean()
