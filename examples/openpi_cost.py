"""What a training step of openpi costs under the recipe: the host's own `train_step`, compiled, counted and timed.

    OPENPI=/path/to/openpi python -m examples.openpi_cost step   FLOPs, memory, time at VLM 512 x 8, expert 256 x 8
    OPENPI=/path/to/openpi python -m examples.openpi_cost full   memory at full size, from shapes: nothing is allocated

Run it in openpi's environment from the root of this repository; OPENPI leads to scripts/train.py.

What is left out, in every row alike: the norms that the host logs. A CPU squares all weights at once for them and keeps
the squares (10.9 GiB at full size); a GPU sums on the fly. `full` compiles for the device that JAX finds; XLA_FLAGS=
--xla_disable_hlo_passes=while-loop-invariant-code-motion keeps a CPU, which has no bfloat16 products, from holding a
float32 copy of the whole VLM instead of one layer's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import os
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from openpi.models import gemma, siglip
from openpi.models import model as _model
from openpi.models.pi0_config import Pi0Config
from openpi.shared import array_typing as at
from openpi.training import config as _config
from openpi.training import sharding

from apt_plugin.hosts.openpi.derive import Frozen, derive
from apt_plugin.hosts.openpi.names import VLM
from apt_plugin.recipe import from_flat
from tests.hosts.openpi.hlo import flops

MIB, GIB = 2**20, 2**30
CAMERAS = _model.IMAGE_KEYS[:2]


@contextlib.contextmanager
def small() -> Iterator[None]:
    """VLM 512 x 8, expert 256 x 8, SigLIP Ti/16, two cameras, no augmentation."""
    base = {"depth": 8, "num_heads": 8, "num_kv_heads": 1, "head_dim": 64}
    sizes = {
        "gemma_2b": gemma.Config(width=512, mlp_dim=2048, **base),
        "gemma_300m": gemma.Config(width=256, mlp_dim=1024, **base),
    }
    before = gemma.get_config, gemma.PALIGEMMA_VOCAB_SIZE, siglip.Module, _model.preprocess_observation
    tower, ready = before[2:]
    gemma.get_config, gemma.PALIGEMMA_VOCAB_SIZE = sizes.__getitem__, 1024  # a real table would hide the activations
    siglip.Module = lambda num_classes=None, *, variant=None, **more: tower(num_classes, variant="Ti/16", **more)
    _model.preprocess_observation = lambda rng, obs, *, train=False: ready(rng, obs, image_keys=CAMERAS)
    try:
        yield
    finally:
        gemma.get_config, gemma.PALIGEMMA_VOCAB_SIZE, siglip.Module, _model.preprocess_observation = before


def host_trainer() -> Any:
    """scripts/train.py without the norms that it logs."""
    train = importlib.import_module("scripts.train")
    train.optax = types.SimpleNamespace(apply_updates=train.optax.apply_updates, global_norm=lambda tree: 0.0)
    return train


def configs(dtype: str, batch_size: int, pi05: bool) -> dict[str, _config.TrainConfig]:
    """The host's full training, its own freezing, and Stage 1 at K = 1 and 4, all without EMA."""
    model = Pi0Config(dtype=dtype, pi05=pi05, pytorch_compile_mode=None)
    full = _config.TrainConfig(
        name="cost", exp_name="cost", model=model, ema_decay=None, batch_size=batch_size, data=_config.FakeDataConfig()
    )
    stages = {f"Stage 1, K={k}": derive(full, 1, from_flat({"noise_draws": k, "gap_every": 0})) for k in (1, 4)}
    frozen = dataclasses.replace(full, freeze_filter=Frozen((f"^{VLM}$",)))
    return {"full training": full, "VLM frozen by filter": frozen, **stages}


def batch_shapes(config: _config.TrainConfig) -> Any:
    obs, actions = config.model.inputs_spec(batch_size=config.batch_size)
    return obs, actions


def compiled(train: Any, config: _config.TrainConfig, mesh: Any, shapes_alone: bool) -> tuple[Any, Any]:
    """The host's jitted step and its state (or the shapes of that)."""
    with at.disable_typechecking():
        state, _ = train.init_train_state(config, jax.random.key(0), mesh, resume=shapes_alone)
        if config.model.dtype == "float32":  # the host freezes in bfloat16, of which a CPU makes float32 copies
            single = jax.tree.map(
                lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32) if shapes_alone else p.astype(jnp.float32),
                state.params,
            )
            state = dataclasses.replace(state, params=single)
        rng = jax.eval_shape(lambda: jax.random.key(0))
        step = jax.jit(functools.partial(train.train_step, config), donate_argnums=(1,))
        return step.lower(rng, state, batch_shapes(config)).compile(), state


def size(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def made_up(shapes: Any) -> Any:
    numbers = np.random.default_rng(0)

    def leaf(spec: Any) -> jax.Array:
        if spec.dtype == jnp.bool_:
            return jnp.ones(spec.shape, jnp.bool_)
        if jnp.issubdtype(spec.dtype, jnp.integer):
            return jnp.asarray(numbers.integers(0, 4, spec.shape), spec.dtype)
        return jnp.asarray(numbers.uniform(-1, 1, spec.shape), spec.dtype)

    with at.disable_typechecking():
        return jax.tree.map(leaf, shapes)


def step(train: Any, repeats: int, pi05: bool) -> None:
    mesh = sharding.make_mesh(1)
    programs, inputs, seconds = {}, {}, {}
    chosen = configs("float32", 1, pi05)
    with at.disable_typechecking():
        for name, config in chosen.items():
            programs[name], state = compiled(train, config, mesh, shapes_alone=False)
            inputs[name] = [state, made_up(batch_shapes(config))]
            seconds[name] = []
        rng = jax.random.key(1)
        for _ in range(repeats + 1):  # interleaved; the first round warms up
            for name, program in programs.items():
                state, batch = inputs[name]
                start = time.perf_counter()
                state, info = program(rng, state, batch)
                jax.block_until_ready((state, info))
                seconds[name].append(time.perf_counter() - start)
                inputs[name][0] = state
    counted = {name: flops(program) for name, program in programs.items()}
    memory = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
    best = {name: min(times[1:]) for name, times in seconds.items()}
    titles = f"{'GFLOP':>8s} {'x full':>7s} {'temp MiB':>9s} {'x full':>7s} {'ms':>8s} {'x full':>7s} per draw"
    print(f"\n{'host step':22s} {titles}")
    whole = "full training"
    for name in programs:
        draws = int(name.rpartition("=")[2]) if "=" in name else 1
        print(
            f"{name:22s} {counted[name] / 1e9:8.2f} {counted[name] / counted[whole]:7.3f} "
            f"{memory[name] / MIB:9.1f} {memory[name] / memory[whole]:7.3f} "
            f"{1e3 * best[name]:8.1f} {best[name] / best[whole]:7.3f} "
            f"{counted[name] / counted[whole] / draws:.3f} FLOPs, {best[name] / best[whole] / draws:.3f} time"
        )


def full(train: Any, pi05: bool, batches: list[int], ema: bool) -> None:
    mesh = sharding.make_mesh(1)
    for batch_size in batches:
        for name, config in configs("bfloat16", batch_size, pi05).items():
            if name == "VLM frozen by filter":
                continue
            config = dataclasses.replace(config, ema_decay=0.99 if ema else None)
            start = time.perf_counter()
            program, state = compiled(train, config, mesh, shapes_alone=True)
            used = program.memory_analysis()
            peak = used.argument_size_in_bytes + used.temp_size_in_bytes
            peak += used.output_size_in_bytes - used.alias_size_in_bytes
            learns = size(state.params.filter(config.trainable_filter))
            print(
                f"batch {batch_size}, {name:14s}: state {size(state) / GIB:6.2f} GiB (frozen "
                f"{(size(state.params) - learns) / GIB:.2f}, trained {learns / GIB:.2f}, optimiser "
                f"{size(state.opt_state) / GIB:.2f}), gradients {learns / GIB:.2f}; compiled for "
                f"{jax.devices()[0].platform}: temp {used.temp_size_in_bytes / GIB:.2f}, peak {peak / GIB:.2f} GiB "
                f"({time.perf_counter() - start:.0f} s to compile)",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step", "full"])
    parser.add_argument("--pi05", action="store_true")
    parser.add_argument("--ema", action="store_true", help="with the average that openpi keeps beside all parameters")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    asked = parser.parse_args()
    sys.path.append(os.environ.get("OPENPI", "."))
    if asked.what == "step":
        with small():
            step(host_trainer(), asked.repeats, asked.pi05)
    else:
        full(host_trainer(), asked.pi05, asked.batch, asked.ema)
