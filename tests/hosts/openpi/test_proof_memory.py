"""The proofs hold one model at a time, in JAX and PyTorch: a whole second one was made for the switch."""

from __future__ import annotations

import weakref

import jax
import pytest
import torch
from flax import nnx

from apt_plugin.hosts.openpi import loading
from apt_plugin.hosts.openpi.prove import OpenpiSubject
from apt_plugin.hosts.openpi.prove_torch import OpenpiTorchSubject
from apt_plugin.hosts.openpi.torch_model import AptPI0Pytorch
from tests.hosts.openpi import tiny


def jax_bytes() -> int:
    """Of all arrays that this process holds."""
    return sum(leaf.nbytes for leaf in jax.live_arrays() if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def test_no_second_model_is_made_for_the_switch_in_jax(monkeypatch):
    config, before = tiny.ours("pi05"), jax_bytes()
    first = OpenpiSubject(tiny.model(config), config, tiny.Tokenizer(), 3, None)
    size, seen, merge = jax_bytes() - before, [], loading.merge_prior
    assert size > 0
    monkeypatch.setattr(loading, "merge_prior", lambda *args: (seen.append(jax_bytes()), merge(*args))[1])
    second = first.switched()
    new = sum(leaf.nbytes for name, leaf in loading.flat(params(second)).items() if "apt_" in name)
    held = [(seen[0] - before - new) / size, (jax_bytes() - before - new) / size]
    print(f"proofs hold {held[0]:.2f}, then {held[1]:.2f} times the weights, beside what is new in Stage 2")
    assert max(held) < 1.05
    assert not hasattr(first, "model")


def params(subject: OpenpiSubject) -> dict:
    return nnx.state(subject.model, nnx.Param).to_pure_dict()


def test_no_second_model_is_made_for_the_switch_in_pytorch(monkeypatch):
    config = tiny.ours("pi05")
    subject = OpenpiTorchSubject(AptPI0Pytorch(config).float(), config, tiny.Tokenizer(), 3, None)
    first, made, load = weakref.ref(subject.model), [], AptPI0Pytorch.load_state_dict

    def watched(model, *args, **more):
        made.append([name for name, p in model.state_dict().items() if p.device.type != "meta"])
        return load(model, *args, **more)

    monkeypatch.setattr(AptPI0Pytorch, "load_state_dict", watched)
    second = subject.switched()
    assert made[0]
    assert all(name.startswith("apt_fusion.") for name in made[0])
    assert first() is None
    assert not [name for name, value in all_tensors(second.model) if value.device.type == "meta"]


def all_tensors(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_the_second_starts_with_positions_of_its_own_size(family):
    """Buffers that no checkpoint holds are those of a model that was built with values."""
    config = tiny.ours(family)
    subject = OpenpiTorchSubject(AptPI0Pytorch(config).float(), config, tiny.Tokenizer(), 3, None)
    second, built = subject.switched().model, AptPI0Pytorch(tiny.ours(family, 2)).float()
    found, wanted = dict(second.named_buffers()), dict(built.named_buffers())
    assert found.keys() == wanted.keys()
    for name in found.keys() - {"apt_plugin_checkpoint"}:
        assert torch.equal(found[name], wanted[name]), name
