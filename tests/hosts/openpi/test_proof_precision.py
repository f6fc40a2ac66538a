"""A checkpoint is proven as its trainer holds it, JAX and PyTorch: frozen weights in bfloat16, computed in bfloat16."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from openpi.models import gemma, pi0_config, siglip
from openpi.shared import nnx_utils

from apt_plugin import proofs
from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.derive import freeze_filter, held_bytes, shapes_of
from apt_plugin.hosts.openpi.prove import OpenpiSubject
from apt_plugin.hosts.openpi.prove_torch import OpenpiTorchSubject
from apt_plugin.hosts.openpi.torch_model import AptPI0Pytorch
from apt_plugin.recipe import Recipe
from tests.hosts.openpi import tiny
from tests.hosts.openpi.test_contracts import BEHIND_DISK

CASES = [("pi05", {"fusion.kind": "interleaved"}), ("pi0", {"fusion.kind": "host"}), ("pi05", {"vlm": "full"})]


def failing(rows: list[proofs.Proof]) -> list[str]:
    claimed = [row for row in rows if row.contract not in BEHIND_DISK]
    return [f"{row.what}: {row.value} ({row.limit}) {row.note}" for row in claimed if row.passed is False]


@pytest.mark.parametrize(("family", "recipe"), CASES)
def test_contracts_hold_as_jax_trains(family, recipe):
    config = tiny.ours(family, 1, recipe, dtype="bfloat16")
    model = tiny.model(config)
    still = freeze_filter(config, nnx.Nothing)  # as the host's init_train_state holds them
    halved = lambda p: p.replace(p.value.astype(jnp.bfloat16))  # noqa: E731
    nnx.update(model, nnx_utils.state_map(nnx.state(model), still, halved))
    subject = OpenpiSubject(model, config, tiny.Tokenizer(), 3, None)
    held = {leaf.value.dtype for leaf in nnx.state(model, nnx.Param).flat_state().values()}
    assert held == {jnp.dtype("bfloat16"), jnp.dtype("float32")}
    rows = proofs.prove(subject)
    assert not failing(rows)
    print([f"{row.what}: {row.value:.2g}" for row in rows if "drop" in row.what])


@pytest.mark.parametrize(("family", "recipe"), CASES)
def test_contracts_hold_as_pytorch_trains(family, recipe):
    config = tiny.ours(family, 1, recipe, dtype="bfloat16")
    torch.manual_seed(0)
    model = AptPI0Pytorch(config)
    assert torch.bfloat16 in {p.dtype for p in model.parameters()}
    rows = proofs.prove(OpenpiTorchSubject(model, config, tiny.Tokenizer(), 3, None))
    assert not failing(rows)
    print([f"{row.what}: {row.value:.2g}" for row in rows if "drop" in row.what])


def test_the_proofs_of_the_full_size_hold_half_of_what_float32_took(monkeypatch):
    """Counted by shapes: pi05 of 3.4 billion parameters, its VLM frozen in Stage 1."""
    monkeypatch.setattr(siglip, "Module", tiny.REAL_SIGLIP)
    monkeypatch.setattr(gemma, "PALIGEMMA_VOCAB_SIZE", 257_152)
    config = apt_config(pi0_config.Pi0Config(pi05=True), 1, Recipe())
    count = sum(torch.Size(shape).numel() for shape in shapes_of(config).values())
    held = held_bytes(config, freeze_filter(config, nnx.Nothing))
    print(f"{count / 1e9:.3f} G parameters: {held / 2**30:.2f} GiB, in float32 {4 * count / 2**30:.2f} GiB")
    assert count > 3.3e9
    assert held < 0.6 * 4 * count
