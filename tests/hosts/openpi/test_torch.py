"""The PyTorch port agrees with JAX: same weights by the host's own converter, same noise, both stages, float32."""

from __future__ import annotations

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

from apt_plugin import proofs
from apt_plugin.fusion import fusion_sites
from apt_plugin.hosts.openpi import loading, torch_convert
from apt_plugin.hosts.openpi.derive import family_of
from apt_plugin.hosts.openpi.prove_torch import OpenpiTorchSubject, as_torch
from apt_plugin.hosts.openpi.torch_model import MARK, AptPI0Pytorch, part_of
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
    assert all("lm_head" in name or "embed_tokens" in name or name == MARK for name in missing)
    return port.eval()


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
        ("pi0", 2, {"fusion.kind": "interleaved"}),
        ("pi05", 2, {"fusion.kind": "host"}),
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
    """All but 6, which needs a checkpoint on disk (test_torch_training): eager, on bits."""
    config = tiny.ours(family, 1, {"fusion.kind": kind})
    first = OpenpiTorchSubject(converted(tiny.model(config), config), config, tiny.Tokenizer(), 3, None)
    rows = [row for row in proofs.prove(first) if row.contract != 6]
    assert not [row for row in rows if not row.passed]
    assert {row.contract for row in rows} == {1, 2, 3, 4, 5, 7}


def test_the_proofs_copy_what_trains_and_nothing_else():
    """The whole model was cloned when it was opened, and Stage 2 was a third one beside it."""
    config = tiny.ours("pi05", 1)
    first = OpenpiTorchSubject(converted(tiny.model(config), config), config, tiny.Tokenizer(), 3, None)
    before = {name: (p.data_ptr(), part_of(name), p.detach().clone()) for name, p in first.model.named_parameters()}
    first.train(proofs.PLAIN, steps=1)
    second = first.switched()
    assert not hasattr(first, "model")
    after = dict(second.model.named_parameters())
    for name, (place, part, value) in before.items():
        assert torch.equal(after[name], value), name
        assert part != "vlm" or after[name].data_ptr() == place, name


@pytest.mark.parametrize(
    ("what", "note"),
    [("state", "this policy is fed no state"), ("images", "other images reach this policy as the same numbers")],
)
def test_an_input_that_the_policy_does_not_have_is_not_claimed(what, note):
    """pi05_libero feeds no state; a fresh image head of openpi is zero, so an image tower without a base is constant.

    The token limit is the user's own, too tight for the proofs' instructions: that ends no run behind Stage 1 either.
    """
    config = tiny.ours("pi05", 1, discrete_state_input=what != "state", max_token_len=40)
    port = converted(tiny.model(config), config)
    if what == "images":
        port.paligemma_with_expert.paligemma.model.multi_modal_projector.linear.weight.data.zero_()
    first = OpenpiTorchSubject(port, config, tiny.Tokenizer(), 3, None)
    rows = {row.what: row for row in proofs.no_leak(first)}
    row = rows.pop(f"actions, other {what}")
    assert row.passed is None
    assert row.note == f"not claimed: {note}"
    assert all(other.passed for other in rows.values())


def test_a_leak_in_the_port_is_seen():
    """The proof can fail: under the host's own mask image tokens carry the words."""
    config = tiny.ours("pi0", 1, {"prefix": "native"})
    native = OpenpiTorchSubject(converted(tiny.model(config), config), config, tiny.Tokenizer(), 3, None)
    plain, other = native.evaluate(proofs.PLAIN), native.evaluate(proofs.OTHER_TEXT)
    assert proofs.furthest(plain.actions, other.actions) > 1e-4


@pytest.mark.parametrize("prefix", ["isolated", "native"])
def test_the_blank_gap_is_zero_behind_closed_gates_and_moves_behind_open_ones(prefix):
    config = tiny.ours("pi0", 2, {"prefix": prefix})
    closed = converted(tiny.model(config), config)
    obs, actions = tiny.observation(config, ["pick up", "stop"])
    obs, actions = as_torch(obs), torch.from_numpy(np.array(actions))
    before = torch.get_rng_state()
    gap = float(closed.instruction_gap(obs, actions))
    assert torch.equal(before, torch.get_rng_state())  # logging it changes nothing about the run
    # A native prefix carries the words past the gates: that is its leak, and the gap shows it
    assert (gap == 0) == (prefix == "isolated")
    port = converted(opened(tiny.model(config)), config)
    assert abs(float(port.instruction_gap(obs, actions))) > 1e-5


@pytest.mark.parametrize("kind", ["interleaved", "host"])
def test_a_served_policy_is_cast_behind_its_back_and_still_samples(kind):
    """The host's policy casts the expert to bfloat16 and nothing else: fusion that stayed float32 met it unprepared."""
    config = tiny.ours("pi05", 2, {"fusion.kind": kind})
    port = AptPI0Pytorch(config).eval()
    port.paligemma_with_expert.to_bfloat16_for_selected_params("bfloat16")
    obs, _ = tiny.observation(config, ["pick up", "stop"])
    assert torch.isfinite(port.sample_actions("cpu", as_torch(obs), num_steps=2)).all()
    gates = [p for n, p in port.named_parameters() if n.endswith("gate.w")]
    assert gates
    assert all(p.dtype == torch.float32 for p in gates)


def test_lora_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="no LoRA"):
        AptPI0Pytorch(tiny.ours("pi0", 2, {"vlm": "lora"}))
