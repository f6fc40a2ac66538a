"""Bases as openpi publishes them load whole, value for value, into Stage 1: orbax folders, and its own converter's
files, which hold one of two tied tensors."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from openpi.training import config as _config
from openpi.training import weight_loaders
from safetensors.torch import load_file, load_model

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.derive import derive
from apt_plugin.hosts.openpi.loading import flat
from apt_plugin.hosts.openpi.torch_model import MARK
from apt_plugin.hosts.openpi.torch_training import TorchRun
from apt_plugin.recipe import from_flat
from tests.hosts.openpi import bases, tiny
from tests.hosts.openpi.test_traps import offline_tokenizer  # noqa: F401

FAMILIES = ("pi0", "pi05")
CONVERTS = pytest.mark.skipif(not bases.CONVERTER.is_file(), reason="this openpi is no checkout: no converter")


def stage1(family: str, base: Path):
    """The derived config of Stage 1 as `scripts/train*.py <name> --recipe apt` gets it."""
    stock = dataclasses.replace(
        _config.get_config(f"{family}_libero"),
        model=tiny.stock(family),
        weight_loader=weight_loaders.CheckpointWeightLoader(str(base / "params")),
        pytorch_weight_path=str(base),
        exp_name="e1",
    )
    return derive(stock, 1, from_flat({}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trained", [False, True], ids=["plain tree", "paths end in value"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_a_jax_base_loads_every_leaf(family, trained, dtype, tmp_path):
    base = bases.write_jax(tmp_path / f"{family}_base", tiny.stock(family), dtype, trained)
    config = stage1(family, base)
    wanted = bases.shapes(config.model)
    loaded = flat(config.weight_loader.load(wanted))
    made = flat(bases.Opened().load(wanted))
    assert loaded.keys() == made.keys()
    for name, value in made.items():
        np.testing.assert_array_equal(np.asarray(loaded[name], np.float32), value.astype(dtype).astype(np.float32))


@CONVERTS
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_converted_base_loads_every_tensor(family, precision, tmp_path):
    """Against the host's own loading of the same file into its own model."""
    from openpi.models_pytorch import pi0_pytorch

    source = bases.write_jax(tmp_path / f"{family}_base", tiny.stock(family))
    base = bases.write_torch(source, tmp_path / "torch", tiny.stock(family), precision)
    stored = load_file(base / "model.safetensors")
    tied = [name for name in stored if "language_model.embed_tokens" in name or "paligemma.lm_head" in name]
    assert len(tied) == 1  # the trap is there: two names, one tensor on disk
    run = TorchRun(stage1(family, base))
    model = run.build(run.config.model)
    run.load(types.SimpleNamespace(load_model=load_model), model, base / "model.safetensors")
    host = pi0_pytorch.PI0Pytorch(tiny.stock(family))
    load_model(host, base / "model.safetensors")
    ours, theirs = model.state_dict(), host.state_dict()
    assert set(ours) - set(theirs) == {MARK}
    for name, value in theirs.items():
        assert torch.equal(ours[name].float(), value.float()), name


@CONVERTS
def test_a_converted_base_without_a_tensor_is_refused_by_name(tmp_path):
    """Only a tied tensor may be absent from a file."""
    from safetensors.torch import save_file

    source = bases.write_jax(tmp_path / "pi0_base", tiny.stock("pi0"))
    base = bases.write_torch(source, tmp_path / "torch", tiny.stock("pi0"))
    stored = load_file(base / "model.safetensors")
    del stored["action_out_proj.weight"]
    save_file(stored, base / "model.safetensors")
    run = TorchRun(stage1("pi0", base))
    with pytest.raises(AptError, match=r"action_out_proj\.weight"):
        run.load(types.SimpleNamespace(load_model=load_model), run.build(run.config.model), base / "model.safetensors")
