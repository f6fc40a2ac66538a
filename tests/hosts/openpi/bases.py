"""Base checkpoints of made-up weights, written by the paths by which openpi publishes its own.

JAX: an orbax folder `params`, as gs://openpi-assets holds them. PyTorch: `examples/convert_jax_model_to_pytorch.py` on
that folder, whose `save_model` keeps one of two tied tensors. Call inside `tiny.small()`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import types
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import openpi
import orbax.checkpoint as ocp
from flax import nnx
from openpi.models import gemma
from openpi.training import weight_loaders

CONVERTER = Path(openpi.__file__).parents[2] / "examples" / "convert_jax_model_to_pytorch.py"


@dataclasses.dataclass(frozen=True)
class Opened(weight_loaders.WeightLoader):
    """Made-up base weights without a zero in them: openpi's fresh image head is zero, so no image would matter."""

    def load(self, params):
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        rng = np.random.default_rng(0)
        made = {}
        for name in sorted(flat):
            shape = flat[name].shape
            noise = rng.standard_normal(shape) * (0.7 * shape[-2] ** -0.5 if name.endswith("kernel") else 0.05)
            made[name] = (noise * (8 if "input_embedding" in name else 1)).astype(flat[name].dtype)
        return flax.traverse_util.unflatten_dict(made, sep="/")


def shapes(model: Any) -> Any:
    """A model config -> nested dict of shapes, as the trainer hands it to a weight loader."""
    return nnx.state(nnx.eval_shape(model.create, jax.random.key(0)), nnx.Param).to_pure_dict()


def write_jax(folder: Path, model: Any, dtype: Any = np.float32, trained: bool = False) -> Path:
    """`<folder>/params` of a stock model config.

    Args:
        trained: as openpi's checkpoint manager writes it, where every path ends in `value`; False: a plain tree.
    """
    tree = jax.tree.map(lambda leaf: leaf.astype(dtype), Opened().load(shapes(model)))
    if trained:
        tree = jax.tree.map(lambda leaf: {"value": leaf}, tree)
    return write_tree(folder, tree)


def write_tree(folder: Path, tree: Any) -> Path:
    shutil.rmtree(folder / "params", ignore_errors=True)
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(folder.resolve() / "params", {"params": tree})
    return folder


def write_torch(source: Path, output: Path, model: Any, precision: str = "bfloat16") -> Path:
    """openpi's own converter on a folder of `write_jax`, with the sizes that it hard-codes made small.

    Args:
        source: its name must hold "pi05" for π0.5: the converter reads the family off it.
    """
    spec = importlib.util.spec_from_file_location("convert_jax_model_to_pytorch", CONVERTER)
    host = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host)
    text = types.SimpleNamespace(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=8, head_dim=8, intermediate_size=128
    )
    vision = types.SimpleNamespace(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128, patch_size=56
    )
    sizes = types.SimpleNamespace(text_config=text, vision_config=vision)
    slices, variants = host.slice_paligemma_state_dict, gemma.get_config
    host.slice_paligemma_state_dict = lambda state, _: slices(state, sizes)
    gemma.get_config = lambda name: variants("dummy" if name == "gemma_300m" else name)
    try:
        host.convert_pi0_checkpoint(str(source.resolve()), precision, str(output), model)
    finally:
        gemma.get_config = variants
    return output
