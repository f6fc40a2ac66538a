"""What a Stage-1 step costs, counted: VLM 512 x 8, expert 256 x 8, SigLIP Ti/16, two cameras, 48 text tokens.

    B batch   K noise draws

Ratios against the host's own full training in one run. Figures are printed (pytest -s).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from openpi.models import gemma, siglip
from openpi.models import model as _model
from openpi.models.pi0_config import Pi0Config

from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.derive import freeze_filter
from apt_plugin.recipe import from_flat
from tests.hosts.openpi import tiny
from tests.hosts.openpi.hlo import flops

pytestmark = pytest.mark.slow
CAMERAS = _model.IMAGE_KEYS[:2]


@pytest.fixture(scope="module")
def sized():
    """The sizes of the host page."""
    patch = pytest.MonkeyPatch()
    base = {"depth": 8, "num_heads": 8, "num_kv_heads": 1, "head_dim": 64}
    sizes = {
        "gemma_2b": gemma.Config(width=512, mlp_dim=2048, **base),
        "gemma_300m": gemma.Config(width=256, mlp_dim=1024, **base),
    }
    patch.setattr(gemma, "get_config", sizes.__getitem__)
    real, ready = tiny.REAL_SIGLIP, _model.preprocess_observation
    patch.setattr(siglip, "Module", lambda num_classes=None, *, variant=None, **more: real(
        num_classes, variant="Ti/16", **more))  # fmt: skip
    patch.setattr(
        _model, "preprocess_observation", lambda rng, obs, *, train=False: ready(rng, obs, image_keys=CAMERAS)
    )
    yield Pi0Config(dtype="float32", pytorch_compile_mode=None)
    patch.undo()


def inputs(config):
    obs, actions = config.inputs_spec()
    cameras = {k: v for k, v in obs.images.items() if k in CAMERAS}
    masks = {k: v for k, v in obs.image_masks.items() if k in CAMERAS}
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


def mean_loss(model, rng, obs, actions):
    return model.compute_loss(rng, obs, actions, train=False).mean()


def stage1(stock, draws, **more):
    return apt_config(stock, 1, from_flat({"noise_draws": draws, **more}))


def test_a_stage_1_step_costs_what_the_design_allows(sized):
    learns = nnx.All(nnx.Param, nnx.Not(freeze_filter(stage1(sized, 1), nnx.Nothing)))
    programs = {
        "full training (host)": compiled(sized, nnx.Param, mean_loss),
        "VLM frozen by filter (host)": compiled(sized, learns, mean_loss),
        "stage 1, K=1": compiled(stage1(sized, 1), learns, mean_loss),
        "stage 1, K=4": compiled(stage1(sized, 4), learns, mean_loss),
    }
    counted = {name: flops(program) for name, program in programs.items()}
    memory = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
    full, held = counted["full training (host)"], memory["full training (host)"]
    for name in programs:
        print(
            f"{name:30s} {counted[name] / 1e9:8.2f} GFLOP {counted[name] / full:6.3f} x   "
            f"temp {memory[name] / 2**20:7.1f} MiB {memory[name] / held:6.3f} x"
        )
    assert counted["VLM frozen by filter (host)"] / full > 0.6  # naive freezing is what this saves over
    assert counted["stage 1, K=1"] / full <= 0.29
    assert counted["stage 1, K=4"] / 4 / full <= 0.10

    one = stage1(sized, 1)
    prefix = flops(compiled(one, None, lambda m, rng, obs, actions: m.apt_prefix(_ready(obs))))
    expert = flops(compiled(one, learns, _expert_alone))
    for draws in (1, 4):
        floor = prefix + draws * expert
        ratio = counted[f"stage 1, K={draws}"] / floor
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
