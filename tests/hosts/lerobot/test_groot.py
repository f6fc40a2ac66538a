"""Contracts 1-5 and 7 of `groot_apt` at the loss, the gradients and the actions; the stock model's leak beside ours.

The same rows that `apt-plugin prove` prints, on real lerobot policies with and without the adapter, both fusion kinds.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot", reason="lerobot is not installed: its policies cannot run")

from apt_plugin import files, proofs
from apt_plugin.errors import AptError
from tests.hosts.lerobot import tiny_groot as tiny

HOST = {"fusion.kind": "host"}
KINDS = [{"fusion.kind": "interleaved"}, HOST, {"fusion.kind": "interleaved", "fusion.taps": "spread"}]


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """Base checkpoints with and without the adapter, in a working directory where the host finds its processor."""
    with tiny.home(tmp_path_factory) as (root, vlm):
        yield {layers: tiny.base(root / f"base{layers}", vlm, layers) for layers in (0, 2)}


def subject(policy, folder):
    from lerobot.policies.factory import make_pre_post_processors

    from apt_plugin.hosts.lerobot.families.groot.prove import LerobotGrootSubject

    before, _ = make_pre_post_processors(policy.config, dataset_stats=tiny.statistics())
    return LerobotGrootSubject(policy, before, folder)


def failing(rows):
    return [f"{row.what}: {row.value} ({row.limit}) {row.note}" for row in rows if not row.passed]


@pytest.mark.parametrize("adapter", [0, 2])
@pytest.mark.parametrize("recipe", KINDS, ids=["interleaved", "host", "spread"])
def test_all_contracts_hold(where, tmp_path, adapter, recipe, monkeypatch):
    policy = tiny.stage1(where[adapter], recipe)
    policy.save_pretrained(tmp_path / "s1")
    if adapter == 0 or recipe is not HOST:  # a process of the host takes half a minute to import: asked once
        from apt_plugin.hosts.lerobot.families.groot import prove as prove_groot

        monkeypatch.setattr(prove_groot, "refuses_without_plugin", lambda _: (True, "asked in another case"))
    rows = proofs.prove(subject(policy, tmp_path / "s1"))
    assert {row.contract for row in rows} == {1, 2, 3, 4, 5, 6, 7}
    assert not failing(rows)


def test_native_prefix_claims_what_it_keeps(where, tmp_path, monkeypatch):
    """Its prior is language-free to the bit; the exact switch is what it gives up, and nothing is claimed of it."""
    from apt_plugin.hosts.lerobot.families.groot import prove as prove_groot

    monkeypatch.setattr(prove_groot, "refuses_without_plugin", lambda _: (True, "asked in another case"))
    policy = tiny.stage1(where[2], {"prefix": "native", "fusion.kind": "host"})
    policy.save_pretrained(tmp_path / "s1")
    rows = proofs.prove(subject(policy, tmp_path / "s1"))
    assert not failing(row for row in rows if row.passed is not None)
    assert {row.contract for row in rows if row.passed is None} == {2}
    assert max(row.value for row in rows if row.passed is None) > 1e-5  # it does not hold, and is seen not to


@pytest.mark.parametrize("recipe", KINDS, ids=["interleaved", "host", "spread"])
def test_stage2_listens_once_open_and_not_before(where, tmp_path, recipe):
    """The switch is not closed for good: open gates move the actions, closed ones of the same model do not."""
    policy = tiny.stage1(where[2], recipe)
    policy.save_pretrained(tmp_path / "s1")
    second = subject(tiny.stage2(tmp_path / "s1", where[2], recipe), tmp_path / "s1")
    second.train(proofs.PLAIN, steps=3)
    heard = [second.evaluate(words).actions for words in (proofs.PLAIN, proofs.OTHER_TEXT)]
    assert proofs.furthest(*heard) > 1e-4
    assert not failing(proofs.no_leak(second))


def test_stage1_has_no_parameter_of_ours_and_dead_text_attention_is_frozen(where):
    policy = tiny.stage1(where[2])
    named = dict(policy.named_parameters())
    assert not [name for name in named if "apt_" in name]
    inputs = tiny.batch(policy, ["a", "bc"])
    policy.train()
    policy(inputs)[0].backward()
    untouched = {name for name, p in named.items() if p.requires_grad and p.grad is None}
    assert not untouched  # DDP without a search for unused parameters stops on the first of these
    assert not any(p.requires_grad for name, p in named.items() if ".backbone." in name)


def test_stage2_trains_what_stage1_froze(where, tmp_path):
    """A Stage-1 checkpoint must not hand its freezing on: the text attention is Stage 2's own pathway."""
    policy = tiny.stage1(where[2], HOST)
    policy.save_pretrained(tmp_path)
    second = tiny.stage2(tmp_path, where[2], HOST)
    name = "_groot_model.action_head.model.transformer_blocks.0.attn1.to_q.weight"
    assert not dict(policy.named_parameters())[name].requires_grad
    assert dict(second.named_parameters())[name].requires_grad
    second.train()
    second(tiny.batch(second, ["a", "bc"]))[0].backward()
    assert not [n for n, p in second.named_parameters() if p.requires_grad and p.grad is None]


def test_checkpoint_with_top_llm_layers_trains_none_of_them(where, tmp_path):
    """The trap: `tune_top_llm_layers` is read from the checkpoint, whatever the flags say."""
    vlm = where[2].parent / tiny.VLM
    trap = tiny.base(tmp_path / "trap", vlm, 2, tune_top_llm_layers=2)
    policy = tiny.stage1(trap)
    assert not [n for n, p in policy.named_parameters() if ".backbone." in n and p.requires_grad]


def stock_actions(policy, words, seed=0):
    torch.manual_seed(5)
    policy.eval()
    return policy.predict_action_chunk(tiny.batch(policy, list(words), seed)).numpy()


def test_stock_leaks_where_ours_does_not(where, figure):
    """The stock model's figures beside ours: text blocks off is not enough, the adapter leaks on its own."""
    stock, ours = tiny.stock(where[2]), tiny.stage1(where[2])
    change = proofs.furthest(stock_actions(stock, proofs.PLAIN), stock_actions(stock, proofs.OTHER_TEXT))
    mate = np.abs(stock_actions(stock, ("stop", "go")) - stock_actions(stock, ("stop", "go on and on")))[0].max()
    leaky = tiny.stage1(where[2])
    leaky.model.apt_words = 160
    with_adapter_open(leaky)
    leaks = proofs.furthest(stock_actions(leaky, proofs.PLAIN), stock_actions(leaky, proofs.OTHER_TEXT))
    none = proofs.furthest(stock_actions(ours, proofs.PLAIN), stock_actions(ours, proofs.OTHER_TEXT))
    size = float(np.abs(stock_actions(stock, proofs.PLAIN)).mean())
    figure(
        f"action size {size:.3g}; other instruction: stock {change:.3g}, text blocks off alone {leaks:.3g}, "
        f"isolated {none:.3g}; a batch-mate's instruction: stock {mate:.3g}"
    )
    assert change > 1e-4
    assert mate > 1e-4
    assert leaks > 1e-4
    assert none == 0.0


def with_adapter_open(policy):
    """Our Stage 1 with the host's unmasked adapter: what closing the text blocks alone would give."""
    import apt_plugin.backends.torch_groot_flow as flow

    flow_features = flow.GrootFlow.apt_features

    def leaky(self, inputs):
        original, flow.adapter_mask = flow.adapter_mask, lambda _layout: None
        try:
            return flow_features(self, inputs)
        finally:
            flow.adapter_mask = original

    policy.model.apt_features = leaky.__get__(policy.model)


def test_draws_share_one_backbone_pass_and_average(where):
    policy = tiny.stage1(where[2], {"noise_draws": 3}).eval()
    calls = []
    handle = policy.model.backbone.model.model.register_forward_hook(lambda *_: calls.append(1))
    inputs = tiny.batch(policy, ["a", "b"])
    loss = float(policy(inputs)[0].detach())
    handle.remove()
    assert len(calls) == 1
    flow = policy.model
    backbone, action = flow.prepare_input(policy._filter_groot_inputs(inputs, include_action=True))
    noise, time = flow.apt_draw(action["action"], -1, inputs["index"])
    one = [flow.apt_errors(backbone, action, noise[:, k : k + 1], time[:, k : k + 1]) for k in range(3)]
    mean = float(sum(e["loss"].sum() / e["mask"].sum() for e in one)) / 3
    assert loss == pytest.approx(mean, rel=1e-5)


def test_guidance_extrapolates_between_prior_and_language(where, tmp_path):
    policy = tiny.stage1(where[2], HOST)
    policy.save_pretrained(tmp_path)
    second = tiny.stage2(tmp_path, where[2], HOST)
    for fusion in second.model.apt_fusion.children():
        fusion.gate.w.data.fill_(1.0)
    one_step = second.model.action_head
    one_step.num_inference_timesteps = 1  # then actions are affine in the velocity, and the check is exact arithmetic
    from dataclasses import replace

    out = {}
    for scale in (0.0, 1.0, 2.5):
        second.model.apt_recipe = replace(second.config.recipe, guidance_scale=scale)
        out[scale] = stock_actions(second, proofs.PLAIN)
    assert proofs.furthest(out[0.0], out[1.0]) > 1e-4
    np.testing.assert_allclose(out[2.5], out[0.0] + 2.5 * (out[1.0] - out[0.0]), rtol=1e-4, atol=1e-5)


def test_foreign_and_unsupported_are_refused_before_a_model_is_built(where, tmp_path):
    with pytest.raises(AptError, match="recipe decides what of the VLM trains"):
        tiny.config(where[2], 1, tune_llm=True)
    for kind, why in (("Gr00tN1d6", "text before the images"), ("gr00t_n1_5", "plain DiT")):
        files.write_json(tmp_path / kind / "config.json", {"model_type": kind})
        with pytest.raises(AptError, match=f"{kind}.*{why}"):
            tiny.config(tmp_path / kind, 1)
    policy = tiny.stage1(where[2])
    orphan = tiny.config(where[2], 2)
    with pytest.raises(AptError, match="Stage 2 starts from a Stage-1 result"):
        type(policy)(orphan)
    policy.save_pretrained(tmp_path)
    with pytest.raises(AptError, match=r"fusion\.taps names VLM layer 9"):
        tiny.stage2(tmp_path, where[2], {"fusion.taps": "9"})
    plain = tiny.base(tmp_path / "plain", where[2].parent / tiny.VLM, 2, use_alternate_vl_dit=False)
    with pytest.raises(AptError, match="plain DiT"):
        tiny.stage1(plain)


def test_base_weights_with_a_missing_tensor_are_refused(where, tmp_path):
    """transformers would warn and train from noise."""
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(where[2], broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop("action_head.model.proj_out_2.weight")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(AptError, match=r"1 missing \(action_head.model.proj_out_2.weight\)"):
        tiny.stage1(broken)
