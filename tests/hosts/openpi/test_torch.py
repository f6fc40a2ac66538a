"""The PyTorch port agrees with JAX: same weights by the host's own converter, same noise, both stages, float32."""

from __future__ import annotations

import dataclasses
import importlib.util
import types
from pathlib import Path

import jax
import numpy as np
import openpi
import pytest
import torch
from flax import nnx
from openpi.models import gemma
from openpi.models import model as _model
from openpi.shared import array_typing as at

from apt_plugin import proofs
from apt_plugin.fusion import fusion_sites
from apt_plugin.hosts.openpi import loading, torch_convert
from apt_plugin.hosts.openpi.derive import family_of
from apt_plugin.hosts.openpi.torch_model import AptPI0Pytorch, part_of
from tests.hosts.openpi import tiny

CONVERTER = Path(openpi.__file__).parents[2] / "examples" / "convert_jax_model_to_pytorch.py"
pytestmark = pytest.mark.skipif(not CONVERTER.is_file(), reason=f"this openpi has no {CONVERTER.name}")


def converted(model, config) -> AptPI0Pytorch:
    """A torch model with the weights of a JAX one: the host's two slicing functions plus our mapping."""
    spec = importlib.util.spec_from_file_location("convert_jax_model_to_pytorch", CONVERTER)
    host = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host)
    tree = jax.tree.map(np.asarray, nnx.state(model, nnx.Param).to_pure_dict())
    expert = gemma.get_config(config.action_expert_variant)
    text = types.SimpleNamespace(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=8, head_dim=8, intermediate_size=128
    )
    vision = types.SimpleNamespace(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128, patch_size=56
    )
    sizes = types.SimpleNamespace(text_config=text, vision_config=vision)
    vlm, rest = host.slice_paligemma_state_dict(loading.flat(tree["PaliGemma"]), sizes)
    family = family_of(config)  # the host reads the family off the folder's name
    state = vlm | host.slice_gemma_state_dict(rest, expert, num_expert=1, checkpoint_dir=family, pi05=config.pi05)
    for name, leaves in tree.items():
        if name not in ("PaliGemma", "apt_fusion"):
            state[f"{name}.weight"] = torch.from_numpy(np.array(leaves["kernel"].T))
            state[f"{name}.bias"] = torch.from_numpy(np.array(leaves["bias"]))
    if "apt_fusion" in tree:
        state |= torch_convert.fusion_state(tree["apt_fusion"], fusion_sites(4, config.apt_recipe.fusion.every))
    port = AptPI0Pytorch(config)
    missing, unexpected = port.load_state_dict(state, strict=False)
    # Heads over the vocabulary that no policy reads; the port ties one to the embedding
    assert not unexpected
    assert all("lm_head" in name or "embed_tokens" in name for name in missing)
    return port.eval()


def as_torch(obs):
    def convert(value):
        return None if value is None else torch.from_numpy(np.array(value))

    with at.disable_typechecking():
        return dataclasses.replace(
            obs,
            images={k: convert(v).permute(0, 3, 1, 2) for k, v in obs.images.items()},
            image_masks={k: convert(v) for k, v in obs.image_masks.items()},
            **{f.name: convert(getattr(obs, f.name)) for f in dataclasses.fields(obs) if "image" not in f.name},
        )


def opened(model):
    """Fusion as training leaves it: open gates, output projections that are not zero."""
    if model.apt.stage == 2:
        state = nnx.state(model.apt_fusion, nnx.Param)
        for i, (_, leaf) in enumerate(sorted(state.flat_state().items(), key=str)):
            leaf.value = leaf.value + 0.3 * jax.random.normal(jax.random.key(i), leaf.value.shape)
        nnx.update(model.apt_fusion, state)
    return model


@pytest.mark.parametrize(
    ("family", "stage", "recipe"),
    [
        ("pi0", 1, {}),
        ("pi05", 1, {}),
        ("pi0", 2, {"fusion.kind": "host", "fusion.gate": "head", "fusion.every": "2"}),
        ("pi05", 2, {"fusion.kind": "interleaved", "fusion.gate": "channel", "fusion.feed_forward": "true"}),
    ],
)
def test_jax_and_torch_agree(family, stage, recipe):
    config = tiny.ours(family, stage, recipe)
    model = opened(tiny.model(config))
    port = converted(model, config)
    obs, actions = tiny.observation(config, ["pick up", "stop"])
    noise, time = model.draw(jax.random.key(0), actions, 2)

    @jax.jit
    def ours():
        ready = _model.preprocess_observation(None, obs, train=False)
        loss = model.errors(ready, actions, noise, time)["loss"]
        return loss, model.sample_actions(jax.random.key(0), obs, noise=noise[:, 0], num_steps=5)

    loss, chunk = ours()
    tensors = [torch.from_numpy(np.array(a)) for a in (actions, noise, time)]
    with torch.no_grad():
        theirs = port.errors(as_torch(obs), *tensors)["loss"].mean(-1).numpy()
        acted = port.sample_actions("cpu", as_torch(obs), noise=tensors[1][:, 0], num_steps=5).numpy()
    assert np.abs(loss.mean() - theirs.mean()) < 1e-4
    assert np.abs(chunk - acted).max() < 1e-3
    assert np.abs(chunk).max() > 0.1  # there is something to agree on


@pytest.mark.parametrize("family", ["pi0", "pi05"])
@pytest.mark.parametrize("kind", ["interleaved", "host"])
def test_contracts_hold_in_the_port(family, kind):
    """1 no leak, 2 exact switch, 3 alive, 4 frozen, 5 the host's tree, at loss, gradients and actions (eager)."""
    config = tiny.ours(family, 1, {"fusion.kind": kind, "drop_instruction": "false"})
    first = converted(tiny.model(config), config)
    noise, time = torch.randn(2, 2, 5, 7), torch.rand(2, 2)

    def outcome(port, words, seed=0):
        obs, actions = tiny.observation(config, list(words), seed)
        obs, actions = as_torch(obs), torch.from_numpy(np.array(actions))
        port.zero_grad()
        loss = port.errors(obs, actions, noise, time)["loss"].mean((1, 2))
        loss.mean().backward()
        grads = {n: p.grad.clone() for n, p in port.named_parameters() if p.grad is not None}
        chunk = port.sample_actions("cpu", obs, noise=noise[:, 0], num_steps=3)
        return loss.detach(), chunk, grads

    plain = outcome(first, proofs.PLAIN)
    for words in (proofs.OTHER_TEXT, ("stop", "turn the box around, State: 1 2"), proofs.OTHER_MATE):
        other = outcome(first, words)
        assert torch.equal(plain[0], other[0])
        assert torch.equal(plain[1], other[1])
        assert plain[2].keys() == other[2].keys()
        assert all(torch.equal(plain[2][n], other[2][n]) for n in plain[2])
    assert not torch.equal(plain[1], outcome(first, proofs.PLAIN, seed=1)[1])  # state and images still matter

    second = AptPI0Pytorch(tiny.ours(family, 2, {"fusion.kind": kind})).eval()
    missing, unexpected = second.load_state_dict(first.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(name.startswith("apt_fusion.") for name in missing)
    switched = outcome(second, proofs.PLAIN)
    assert torch.equal(plain[0], switched[0])
    assert torch.equal(plain[1], switched[1])

    held = {n: p.clone() for n, p in second.named_parameters() if part_of(n) == "vlm"}
    learns = [p for p in second.parameters() if p.requires_grad]
    torch.optim.AdamW(learns, lr=1e-3, weight_decay=0.1).step()
    grads = outcome(second, proofs.PLAIN)[2]
    fused = [n for n, _ in second.named_parameters() if n.startswith("apt_fusion.")]
    assert all(n in grads and torch.isfinite(grads[n]).all() and grads[n].abs().sum() > 0 for n in fused)
    assert held
    assert all(torch.equal(held[n], p) for n, p in second.named_parameters() if n in held)


def test_lora_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="no LoRA"):
        AptPI0Pytorch(tiny.ours("pi0", 2, {"vlm": "lora"}))
