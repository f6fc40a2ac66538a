"""The parts under the contracts: our walk is the host's, the hook is the layer, the fusion is its oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot", reason="lerobot is not installed: its models cannot run")

from apt_plugin import fusion as oracle
from apt_plugin.backends import torch_groot
from apt_plugin.backends.torch_groot_dit import FeatureFusion, Features, cross_attention
from apt_plugin.backends.torch_groot_flow import GrootFlow, apt_class
from apt_plugin.recipe import Fusion, from_flat
from tests.hosts.lerobot import tiny_groot as tiny


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    with tiny.home(tmp_path_factory) as (root, vlm):
        yield tiny.base(root / "base", vlm)


@pytest.fixture
def stock(where):
    return tiny.stock(where).eval()


def host_inputs(policy, words):
    inputs = policy._filter_groot_inputs(tiny.batch(policy, words), include_action=False)
    return policy._groot_model.prepare_input(inputs)


def test_hooked_states_are_what_the_host_takes(stock):
    """Canary: the host's features by its own code, whatever `hidden_states[-1]` means in this transformers."""
    model = stock._groot_model
    backbone, _ = host_inputs(stock, ["push it", "push it"])
    with torch.no_grad():
        theirs = model.backbone(dict(backbone))["backbone_features"]
        given = {k: backbone[k] for k in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
        model.backbone._ensure_mm_token_type_ids(given)
        model.backbone._ensure_legacy_qwen3_position_ids(given)
        layers = model.backbone.language_model.layers
        ours = torch_groot.vlm_states(model.backbone.model, layers, given, [3, 0, 1, 2])
        states = model.backbone.model(**given, output_hidden_states=True).hidden_states
        normed = model.backbone.language_model.norm(ours[0])
    assert torch.equal(ours[0], theirs)
    # transformers 4.57 hands over ours[0], 5.x normed; a third meaning must be looked at by a person.
    assert torch.equal(states[-1], ours[0]) or torch.equal(states[-1], normed)
    assert not torch.allclose(normed, ours[0])
    # DeepStack adds to image tokens behind layers 0 and 1: a tap has it, as the next layer does; hidden_states lack it.
    image = backbone["input_ids"] == model.backbone.model.config.image_token_id
    for tap, mine in zip((0, 1, 2), ours[1:], strict=True):
        assert torch.equal(mine[~image], states[tap + 1][~image])
        assert torch.equal(mine[image], states[tap + 1][image]) == (tap == 2)


def test_no_vocabulary_head_runs(where):
    policy = tiny.stage1(where).eval()
    calls = []
    policy.model.backbone.model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    policy(tiny.batch(policy, ["a"]))
    assert not calls


def test_arranged_prompt_gives_the_hosts_features(stock):
    """Padding behind instead of in front changes no number but rounding: positions never counted padding."""
    model = stock._groot_model
    backbone, _ = host_inputs(stock, ["push it", "push the cup over there"])
    layout = torch_groot.arrange(
        backbone["input_ids"], backbone["attention_mask"], model.backbone.model.config.image_token_id
    )
    flow = apt_class(GrootFlow, type(model))
    model.__class__ = flow
    model.apt_attach(from_flat({"drop_instruction": False}), 1)
    with torch.no_grad():
        given = given_of(model, backbone, layout)
        mine = torch_groot.vlm_states(model.backbone.model, model.apt_layers(), given, [3])[0]
        theirs = model.backbone(dict(backbone))["backbone_features"]
    assert torch.allclose(mine[layout.valid], theirs[backbone["attention_mask"].bool()], atol=1e-5, rtol=1e-5)


def given_of(model, backbone, layout):
    given = {k: backbone[k] for k in ("pixel_values", "image_grid_thw")}
    given |= {"input_ids": layout.tokens, "attention_mask": layout.valid.long()}
    model.backbone._ensure_mm_token_type_ids(given)
    model.backbone._ensure_legacy_qwen3_position_ids(given)
    return given


@pytest.mark.parametrize("draws", [1, 3])
def test_walk_with_open_text_blocks_is_the_hosts(where, tmp_path, draws):
    """With gates at 1 and the host's own features, our walk is the stock transformer to rounding."""
    policy = tiny.stage1(where, {"fusion.kind": "host"})
    policy.save_pretrained(tmp_path)
    second = tiny.stage2(tmp_path, where, {"fusion.kind": "host"}).eval()
    stock = tiny.stock(where).eval()
    generator = torch.Generator().manual_seed(0)
    vl = torch.randn(2, 9, 32, generator=generator)
    x = torch.randn(2 * draws, 6, 32, generator=generator)
    when = torch.arange(2 * draws) * 100
    image = torch.arange(9)[None].expand(2, 9) % 2 == 0
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, 7:] = False
    dit = second.model.action_head.model
    for gate in dit.apt_fusion.children():
        gate.gate.w.data.fill_(50.0)  # 2 sigmoid(50) - 1 is 1 in float32
    with torch.no_grad():
        ours = dit(x, vl, when, image_mask=Features(vl, image & valid, ~image & valid))
        repeat = [part.repeat_interleave(draws, 0) for part in (vl, image, valid)]
        theirs = stock._groot_model.action_head.model(
            x, repeat[0], when, image_mask=repeat[1], backbone_attention_mask=repeat[2]
        )
    assert torch.allclose(ours, theirs, atol=2e-5, rtol=2e-5)
    with torch.no_grad():
        closed = dit(x, vl, when, image_mask=Features(vl, image & valid, ~image & valid).prior())
    assert not torch.allclose(closed, theirs, atol=1e-3)


@pytest.mark.parametrize("gate", ["scalar", "head", "channel"])
@pytest.mark.parametrize("feed_forward", [False, True])
def test_feature_fusion_is_its_oracle(gate, feed_forward):
    """The numpy rule at position 0, where rotary embedding is the identity (GR00T has none here)."""
    torch.manual_seed(0)
    b, t, s, width, heads, wide = 2, 3, 5, 8, 2, 12
    layer = FeatureFusion(Fusion(gate=gate, feed_forward=feed_forward), width, heads, wide).double()
    for p in layer.parameters():
        p.data = torch.randn_like(p) * 0.5
    x, states = torch.randn(b, t, width).double(), torch.randn(b, s, wide).double()
    text = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()
    ours = layer(x, Features(states, torch.zeros_like(text), text), states, "site")
    normed = oracle.rms_norm(states.numpy(), layer.kv_norm.weight.detach().numpy())
    weight = {n: p.detach().numpy() for n, p in layer.named_parameters()}
    k, v = (oracle.split_heads(normed @ weight[f"{n}_proj.weight"].T, heads) for n in "kv")
    params = {"norm": weight["norm.weight"], "q": weight["q_proj.weight"].T, "o": weight["o_proj.weight"].T,
              "w": weight["gate.w"]}  # fmt: skip
    if feed_forward:
        params |= {"ff_norm": weight["ff_norm.weight"], "ff_in": weight["ff_in.weight"].T,
                   "ff_out": weight["ff_out.weight"].T}  # fmt: skip
    theirs = oracle.interleaved(x.numpy(), np.zeros((b, t)), k, v, text.numpy(), params, gate)
    # RMSNorm and the gate work in float32 by design, the oracle in float64.
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("granularity", ["scalar", "head", "channel"])
def test_host_gate_is_exactly_closed_and_alive(stock, granularity):
    from apt_plugin.backends.torch_fusion import Gate

    attn = stock._groot_model.action_head.model.transformer_blocks[0].attn1
    gate = Gate(Fusion(kind="host", gate=granularity), attn.heads, 32)
    vl, x = torch.randn(2, 5, 32), torch.randn(4, 3, 32)
    text = torch.ones(2, 5, dtype=torch.bool)
    branch = cross_attention(attn, x, Features(vl, ~text, text), text, 0, gate)
    assert float(branch.detach().abs().max()) == 0.0
    branch.sum().backward()
    assert float(gate.w.grad.abs().min()) > 0


def test_rows_that_may_read_nothing_get_zero(stock):
    attn = stock._groot_model.action_head.model.transformer_blocks[0].attn1
    vl, x = torch.randn(2, 5, 32), torch.randn(2, 3, 32)
    text = torch.tensor([[True] * 5, [False] * 5])
    out = cross_attention(attn, x, Features(vl, ~text, text), text, 0)
    assert torch.equal(out[1], attn.to_out[0].bias.expand(3, -1))
    assert not torch.equal(out[0], attn.to_out[0].bias.expand(3, -1))


def test_taps_are_spread_evenly_and_checked():
    assert torch_groot.tap_layers("last", 4, 16) is None
    assert torch_groot.tap_layers("spread", 4, 16) == [3, 7, 11, 15]
    assert torch_groot.tap_layers("spread", 8, 4) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch_groot.tap_layers("2,5", 4, 16) == [2, 2, 5, 5]


def test_layout_refuses_what_it_cannot_hold():
    from apt_plugin.errors import AptError

    tokens = torch.tensor([[0, 0, 5, 9, 9, 7, 8], [5, 9, 9, 7, 8, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    dropped = torch_groot.arrange(tokens, mask, 9, 0)
    assert dropped.tokens.tolist() == [[5, 9, 9], [5, 9, 9]]
    fixed = torch_groot.arrange(tokens, mask, 9, 6)
    assert fixed.tokens.tolist() == [[5, 9, 9, 7, 8, 0, 0, 0, 0], [5, 9, 9, 7, 8, 7, 8, 0, 0]]
    assert fixed.wordless().sum() == 2
    with pytest.raises(AptError, match="4 tokens behind the images, 3 places"):
        torch_groot.arrange(tokens, mask, 9, 3)
    with pytest.raises(AptError, match="no image token"):
        torch_groot.arrange(tokens, mask, 3)
