"""What a step from a cache costs, and what acting costs: counted FLOPs against floors that the host's parts define."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from apt_plugin.backends.torch_bytes import to_torch
from apt_plugin.hosts.lerobot import cache_data, families
from apt_plugin.hosts.lerobot.flow import PromptBatch
from tests.hosts.lerobot import tiny
from tests.hosts.lerobot.test_cost import SIZES, count, floor, sized_plain  # noqa: F401

LIMIT = 1.05
WORDS = ["push the red cup", "pick up the blue block"]


def cached(policy: Any, batch: dict[str, Any], kind: str) -> dict[str, Any]:
    """The batch as the data loader of a cached run gives it: features in place of images."""
    with torch.no_grad():
        entries = families.of(policy.config.type).encode(policy, batch, kind)[0]
    dtypes = {
        "k": "F32",
        "v": "F32",
        "tokens": "F32",
        "spoken": "BOOL",
        "offset": "I64",
        "image": "BOOL",
        "scene": "BOOL",
    }
    out = {k: v for k, v in batch.items() if not k.startswith("observation.images") and k != "pixel_values"}
    for name in entries[0]:
        rows = [to_torch(entry[name], dtypes.get(name, "F32")) for entry in entries]
        out[f"{cache_data.PREFIX}{name}"] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        out[f"{cache_data.PREFIX}{name}.length"] = torch.tensor([len(row) for row in rows])
    return out


@pytest.mark.parametrize("draws", [1, 4, 8])
@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_a_cached_stage1_step_costs_the_expert(sized_plain, tok: str, family: str, draws: int) -> None:  # noqa: F811
    policy = tiny.stage1(family, sized_plain[family], tok, {"noise_draws": draws}, sizes=SIZES).train()
    batch = tiny.batch(policy, WORDS)
    prefix, expert = floor(policy, batch, draws)
    whole = policy.forward(batch)[0]
    light = cached(policy, batch, "kv")
    assert torch.equal(policy.forward(light)[0], whole)
    step = count(lambda: policy.forward(light)[0].backward())
    assert step <= LIMIT * draws * expert
    assert step < 0.5 * (prefix + draws * expert) or draws > 1  # and the prefix was worth saving
    # With image tokens the language model still runs, the vision tower does not.
    images, _ = policy._preprocess_images(batch)
    tower = count(lambda: [policy.model.paligemma_with_expert.embed_image(image) for image in images])
    tokens = cached(policy, batch, "vision")
    embed = policy.model.paligemma_with_expert.embed_image
    policy.model.paligemma_with_expert.embed_image = lambda tokens: tokens
    assert torch.equal(policy.forward(tokens)[0], whole)
    step = count(lambda: policy.forward(tokens)[0].backward())
    policy.model.paligemma_with_expert.embed_image = embed
    assert step <= LIMIT * (prefix - tower + draws * expert)


PATHS = [("pi05", "interleaved"), ("pi05", "host"), ("pi0", "interleaved")]


@pytest.mark.parametrize(("family", "kind"), PATHS)
def test_a_cached_stage2_step_costs_expert_and_fusion(
    sized_plain,  # noqa: F811
    tok: str,
    tmp_path: Path,
    family: str,
    kind: str,
) -> None:
    tiny.stage1(family, sized_plain[family], tok, sizes=SIZES).save_pretrained(tmp_path / "s1")
    recipe = {"fusion.kind": kind, "norm_stats": "data", "gap_every": 0}
    policy = tiny.stage2(family, tmp_path / "s1", tok, recipe, sizes=SIZES).train()
    batch = tiny.batch(policy, WORDS)
    images, masks = policy._preprocess_images(batch)
    prefix = policy.model.prefix(images, masks, PromptBatch.of(batch))
    x, time = policy.prepare_action(batch)[:, None].repeat(1, 4, 1, 1), torch.rand(2, 4)
    state = policy._state(batch)
    expert = count(lambda: policy.model.velocity(prefix, x, time, state).square().mean().backward())
    light = cached(policy, batch, "kv")
    torch.testing.assert_close(policy.forward(light)[0], policy.forward(batch)[0], atol=1e-6, rtol=1e-6)
    assert count(lambda: policy.forward(light)[0].backward()) <= LIMIT * expert


# -- acting -----------------------------------------------------------------------------------------------

# At real depth ratio and widths large enough that the prefix dominates, as it does in the real model: 10 steps.
ACT = tiny.TINY | {"vlm_width": 256, "vlm_mlp": 1024, "expert_width": 64, "expert_mlp": 128, "depth": 6}
ACT |= {"head_dim": 16, "vision_width": 64, "vision_mlp": 128, "vision_depth": 2}


@pytest.fixture(scope="module")
def acting(tmp_path_factory, tok: str) -> dict[str, Any]:
    """Stock policies and every kind of fusion, on one checkpoint a family."""
    folder, out = tmp_path_factory.mktemp("acting"), {}
    for family in ("pi05", "pi0"):
        tiny.stock_checkpoint(folder / family, family, sizes=ACT)
        tiny.stage1(family, folder / family, tok, sizes=ACT).save_pretrained(folder / f"{family} s1")
        out[family] = tiny.stock(family, sizes=ACT)
    for family, kind in PATHS:
        for scale in (1.0, 1.5):
            recipe = {"fusion.kind": kind, "norm_stats": "data", "guidance_scale": scale, "fusion.every": 3}
            out[f"{family} {kind} {scale}"] = tiny.stage2(family, folder / f"{family} s1", tok, recipe, sizes=ACT)
    return out


def without_padding(batch: dict[str, Any]) -> PromptBatch:
    """The host computes its padding too (to 200 tokens); ours leaves it out, which must not pay for anything here."""
    prompt = PromptBatch.of(batch)
    return prompt.first(int(prompt.valid.sum(-1).max()))


@pytest.mark.parametrize(("scale", "limit"), [(1.0, 1.05), (1.5, 1.15)])
@pytest.mark.parametrize(("family", "kind"), PATHS)
def test_acting_costs_what_the_stock_policy_costs(acting, family: str, kind: str, scale: float, limit: float, figure):
    policy, stock = acting[f"{family} {kind} {scale}"], acting[family]
    batch = tiny.batch(policy, WORDS)
    images, masks = policy._preprocess_images(batch)
    prompt, state = without_padding(batch), policy._state(batch)
    more = () if state is None else (state,)
    theirs = count(lambda: stock.model.sample_actions(images, masks, prompt.tokens, prompt.valid, *more))
    ours = count(lambda: policy.predict_action_chunk(batch))
    figure(f"{family} {kind} guidance {scale}: {ours / theirs:.3f} of stock")
    assert ours <= limit * theirs


def test_two_whole_passes_would_break_that_limit(acting) -> None:
    """The guard must be able to fail: guidance by running the policy twice, VLM included."""
    policy, stock = acting["pi05 interleaved 1.0"], acting["pi05"]
    batch = tiny.batch(policy, WORDS)
    images, masks = policy._preprocess_images(batch)
    prompt = without_padding(batch)
    with FlopCounterMode(display=False) as theirs:
        stock.model.sample_actions(images, masks, prompt.tokens, prompt.valid)
    with FlopCounterMode(display=False) as twice:
        for _ in range(2):
            policy.predict_action_chunk(batch)
    assert twice.get_total_flops() > 1.15 * theirs.get_total_flops()


# -- the benchmark's own rows -----------------------------------------------------------------------------


@pytest.mark.slow
def test_every_row_of_groot_keeps_to_its_floor() -> None:
    """Stage 1 and a frozen Stage 2, from images and from a cache; acting against the host's own."""
    from apt_plugin.hosts.lerobot.bench import rows_of

    rows = {row.name: row for row in rows_of("groot", "tiny", "cpu", rounds=0)}
    floored = [row for row in rows.values() if row.floor]
    assert len(floored) == 8
    for row in floored:
        assert row.flops <= LIMIT * row.floor, row.name
    stock = rows["host acting"].flops
    assert rows["APT acting"].flops <= 1.05 * stock
    assert rows["APT acting, guidance 1.5"].flops <= 1.15 * stock
    cached, plain = (rows[name].flops for name in ("APT Stage 1, K=1, cache", "APT Stage 1, K=1"))
    assert cached < 0.6 * plain


@pytest.mark.slow
def test_pi05_at_its_real_size_keeps_to_its_floors() -> None:
    """Counted on the meta device: 3 cameras, 64 text tokens, 50 actions, 18 layers, 10 integration steps."""
    from apt_plugin.hosts.lerobot.bench import rows_of

    wanted = ("host acting", "APT acting", "APT acting, guidance 1.5", "APT Stage 1, K=4", "APT Stage 1, K=4, cache",
              "APT Stage 2, frozen VLM", "APT Stage 2, frozen VLM, cache")  # fmt: skip
    rows = {r.name: r for r in rows_of("pi05", "real", "meta", 0, batch=1, only=lambda row: row.name in wanted)}
    for row in rows.values():
        assert not row.floor or row.flops <= LIMIT * row.floor, row.name
    stock = rows["host acting"].flops
    assert rows["APT acting"].flops <= 1.05 * stock
    assert rows["APT acting, guidance 1.5"].flops <= 1.15 * stock
