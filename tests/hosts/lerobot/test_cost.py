"""What a Stage-1 step costs, counted in FLOPs against a floor that the host's own functions define."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from apt_plugin.hosts.lerobot.flow import PromptBatch
from tests.hosts.lerobot import tiny

# Realistic proportions on few numbers: the prefix is long and wide, the expert narrow.
SIZES = tiny.TINY | {"vlm_width": 128, "vlm_mlp": 512, "expert_width": 64, "expert_mlp": 256, "depth": 6}
SIZES |= {"head_dim": 16, "vision_width": 64, "vision_mlp": 128, "vision_depth": 2}


def count(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def sized_plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sized")
    return {family: tiny.stock_checkpoint(folder / family, family, sizes=SIZES) for family in ("pi05", "pi0")}


def floor(policy, batch: dict, draws: int) -> tuple[int, int]:
    """(prefix forward, expert forward and backward per draw) by the host's own functions, on the kept tokens."""
    model = policy.model
    images, masks = policy._preprocess_images(batch)
    prompt = PromptBatch.of(batch)
    kept = prompt.first(int((prompt.valid & ~prompt.instruction).sum(-1).max()))
    state = policy._state(batch)
    host = next(kind for kind in type(model).__mro__ if kind.__module__.startswith("lerobot."))
    cached = {}

    def prefix() -> None:
        with torch.no_grad():
            embs, pad, _ = model.embed_prefix(images, masks, kept.tokens, kept.valid)
            mask = (pad[:, None, :] & pad[:, :, None])[:, None]
            model.paligemma_with_expert.paligemma.model.language_model.config._attn_implementation = "eager"
            _, cached["kv"] = model.paligemma_with_expert.forward(
                attention_mask=torch.where(mask, 0.0, -1e30),
                position_ids=pad.cumsum(1) - 1,
                inputs_embeds=[embs, None],
                use_cache=True,
            )
            cached["pad"] = pad

    def expert() -> None:
        actions = policy.prepare_action(batch)
        args = (state,) if state is not None else ()
        v = host.denoise_step(model, *args, cached["pad"], cached["kv"], actions, torch.rand(actions.shape[0]))
        (v - actions).square().mean().backward()

    first = count(prefix)
    return first, count(expert)


@pytest.mark.parametrize("draws", [1, 4, 8])
@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_stage1_pays_the_prefix_once(sized_plain, tok: str, family: str, draws: int, record_property) -> None:
    """A joint pass differentiates the frozen VLM; at most 5 % above prefix forward + K x expert forward+backward."""
    policy = tiny.stage1(family, sized_plain[family], tok, {"noise_draws": draws}, sizes=SIZES)
    policy.train()
    batch = tiny.batch(policy, ["push the red cup", "pick up the blue block"])
    prefix, expert = floor(policy, batch, draws)
    step = count(lambda: policy.forward(batch)[0].backward())
    assert prefix > expert  # the proportions are those of a real model, so the ratio means something
    record_property("flops_over_floor", step / (prefix + draws * expert))
    assert step <= 1.05 * (prefix + draws * expert)


def test_a_joint_frozen_pass_would_break_that_floor(sized_plain, tok: str) -> None:
    """The guard must be able to fail: lerobot's own train_expert_only differentiates through the whole frozen VLM."""
    policy = tiny.stage1("pi05", sized_plain["pi05"], tok, {"noise_draws": 1}, sizes=SIZES)
    batch = tiny.batch(policy, ["push the red cup", "pick up the blue block"])
    prefix, expert = floor(policy, batch, 1)
    stock = tiny.stock("pi05", sizes=SIZES, train_expert_only=True)
    images, masks = policy._preprocess_images(batch)
    prompt = PromptBatch.of(batch)
    actions = policy.prepare_action(batch)
    step = count(
        lambda: stock.model.forward(
            images, masks, prompt.tokens, prompt.valid, actions, torch.randn_like(actions), torch.rand(2)
        ).mean().backward()
    )  # fmt: skip
    assert step > 1.3 * (prefix + expert)


@pytest.mark.parametrize(("family", "kind"), [("pi05", "interleaved"), ("pi05", "host"), ("pi0", "interleaved")])
def test_stage2_with_a_frozen_vlm_never_differentiates_it(
    sized_plain, tok: str, tmp_path: Path, family: str, kind: str
) -> None:
    """Fusion reads the instruction's keys; that must not put the VLM back under autograd."""
    tiny.stage1(family, sized_plain[family], tok, sizes=SIZES).save_pretrained(tmp_path / "s1")
    recipe = {"fusion.kind": kind, "norm_stats": "data", "gap_every": 0}
    policy = tiny.stage2(family, tmp_path / "s1", tok, recipe, sizes=SIZES)
    policy.train()
    batch = tiny.batch(policy, ["push the red cup", "pick up the blue block"])
    images, masks = policy._preprocess_images(batch)
    forward = count(lambda: policy.model.prefix(images, masks, PromptBatch.of(batch)))
    cache = policy.model.prefix(images, masks, PromptBatch.of(batch))
    assert not any(t.requires_grad for t in (*cache.k, *cache.v))
    actions = policy.prepare_action(batch)
    x, time = actions[:, None].repeat(1, 4, 1, 1), torch.rand(2, 4)
    state = policy._state(batch)
    expert = count(lambda: policy.model.velocity(cache, x, time, state).square().mean().backward())
    assert count(lambda: policy.forward(batch)[0].backward()) <= 1.05 * (forward + expert)
