"""openpi at a chosen size, and its own programs compiled from shapes: what `bench` counts and times.

Called with openpi's type checks off: shapes stand where it expects arrays. What is left out, in every row alike: the
norms that the host logs. A CPU squares all weights at once for them and keeps the squares (10.9 GiB at full size), a
GPU sums on the fly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openpi
from flax import nnx
from openpi.models import gemma, lora, siglip
from openpi.models import model as _model
from openpi.training import config as _config
from openpi.training import sharding

from apt_plugin.errors import AptError
from apt_plugin.run.replace import Replacements


@dataclass(frozen=True)
class Size:
    """A model and what it is fed."""

    vlm: dict[str, int] | None  # Gemma's numbers; None is the host's own size
    expert: dict[str, int]
    tower: str
    cameras: int
    batch: int
    dtype: str = "float32"
    vocab: int = 1024  # a real table would hide the activations


def _sizes(width: int, depth: int, head: int) -> dict[str, dict[str, int]]:
    base = {"depth": depth, "num_heads": 8, "num_kv_heads": 1, "head_dim": head}
    return {"vlm": {"width": width, "mlp_dim": 4 * width, **base},
            "expert": {"width": width // 2, "mlp_dim": 2 * width, **base}}  # fmt: skip


SIZES = {
    "tiny": Size(**_sizes(64, 4, 8), tower="mu/56", cameras=2, batch=2),
    "quarter": Size(**_sizes(512, 8, 64), tower="Ti/16", cameras=2, batch=1),
    "real": Size(None, {}, "So400m/14", 3, 8, "bfloat16", 257_152),
}


@contextlib.contextmanager
def sized(size: Size) -> Iterator[None]:
    """While active, the host builds the smaller model and reads fewer cameras, unaugmented; not at the real size."""
    if size.vlm is None:
        yield
        return
    factors = {name: lora.LoRAConfig(rank=16, alpha=16.0) for name in ("attn", "ffn")}
    vlm: dict[str, Any] = size.vlm
    made = {
        "gemma_2b": gemma.Config(**vlm),
        "gemma_2b_lora": gemma.Config(**vlm, lora_configs=factors),
        "gemma_300m": gemma.Config(**size.expert),
    }
    tower, ready, cameras = siglip.Module, _model.preprocess_observation, _model.IMAGE_KEYS[: size.cameras]
    values = (
        (gemma, "get_config", made.__getitem__),
        (gemma, "PALIGEMMA_VOCAB_SIZE", size.vocab),
        (
            siglip,
            "Module",
            lambda num_classes=None, *, variant=None, **more: tower(num_classes, variant=size.tower, **more),
        ),
        (_model, "preprocess_observation", lambda rng, obs, *, train=False: ready(rng, obs, image_keys=cameras)),
    )
    sizes = Replacements()
    try:
        for module, name, value in values:
            sizes.set(module, name, value)
        yield
    finally:
        sizes.restore()


def host_trainer() -> Any:
    """The checkout's scripts/train.py, a copy of its own without the norms that it logs.

    Raises:
        AptError: openpi is not installed from a checkout.
    """
    roots = (Path(openpi.__file__).parents[2], Path(os.environ.get("OPENPI", ".")))
    root = next((root for root in roots if (root / "scripts" / "train.py").is_file()), None)
    if root is None:
        raise AptError("bench compiles openpi's own scripts/train.py and found no checkout. Set OPENPI to its folder.")
    if str(root) not in sys.path:
        sys.path.append(str(root))
    source = importlib.util.find_spec("scripts.train")
    assert source is not None
    assert source.loader is not None
    train = importlib.util.module_from_spec(source)
    source.loader.exec_module(train)
    train.optax = types.SimpleNamespace(apply_updates=train.optax.apply_updates, global_norm=lambda tree: 0.0)
    return train


# -- shapes ----------------------------------------------------------------------------------------------


def single(config: Any, tree: Any) -> Any:
    """In float32 where the model computes so: the host freezes in bfloat16, of which a CPU makes float32 copies."""
    if config.model.dtype != "float32":
        return tree

    def leaf(value: Any) -> Any:
        if isinstance(value, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(value.shape, jnp.float32)
        return value.astype(jnp.float32)

    return jax.tree.map(leaf, tree)


def state_of(train: Any, config: _config.TrainConfig, shapes_alone: bool) -> Any:
    """The host's train state, or its shapes."""
    mesh = sharding.make_mesh(1)
    state, _ = train.init_train_state(config, jax.random.key(0), mesh, resume=shapes_alone)
    return dataclasses.replace(state, params=single(config, state.params))


def batch_shapes(config: _config.TrainConfig) -> Any:
    return config.model.inputs_spec(batch_size=config.batch_size)


def key_shape() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def program(function: Callable, *shapes: Any, donate: tuple[int, ...] = ()) -> Any:
    """Compiled for these shapes."""
    return jax.jit(function, donate_argnums=donate).lower(*shapes).compile()


def train_program(train: Any, config: _config.TrainConfig, state: Any, batch: Any) -> Any:
    return program(functools.partial(train.train_step, config), key_shape(), state, batch, donate=(1,))


def shapes_of(model: Any) -> tuple[Any, Any]:
    """(graph, state of shapes) of a model config."""
    return nnx.split(nnx.eval_shape(model.create, jax.random.key(0)))


def made_up(shapes: Any) -> Any:
    """Arrays of these shapes: everything valid, numbers small."""
    numbers = np.random.default_rng(0)

    def leaf(spec: Any) -> jax.Array:
        if spec.dtype == jnp.bool_:
            return jnp.ones(spec.shape, jnp.bool_)
        if jnp.issubdtype(spec.dtype, jnp.integer):
            return jnp.asarray(numbers.integers(0, 4, spec.shape), spec.dtype)
        return jnp.asarray(numbers.uniform(-1, 1, spec.shape), spec.dtype)

    return jax.tree.map(leaf, shapes)


def bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
