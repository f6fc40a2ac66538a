"""In which precision GR00T's weights are held: what fits a 24 GB card must also learn, switch and be proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot", reason="lerobot is not installed: its policies cannot run")

from apt_plugin.backends.torch_groot_groups import part_of
from tests.hosts.lerobot import tiny_groot as tiny

WORDS = ["pick up the red cup", "push the blue block"]


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    with tiny.home(tmp_path_factory) as (root, vlm):
        yield tiny.base(root / "base", vlm, dropout=0.0)


def held(policy: Any) -> dict[str, set[torch.dtype]]:
    """Part of the model, matrices apart from the rest -> the dtypes found there."""
    out: dict[str, set[torch.dtype]] = {}
    for name, p in policy.named_parameters():
        part = "vlm" if part_of(name) == "vlm" else "vectors" if p.dim() < 2 or name.endswith(".b") else "matrices"
        out.setdefault(part, set()).add(p.dtype)
    return out


HALF, FULL = {torch.bfloat16}, {torch.float32}


@pytest.mark.parametrize(
    ("more", "want"),
    [({"use_bf16": True}, (HALF, HALF, FULL)), ({"use_bf16": True, "model_params_fp32": True}, (HALF, FULL, FULL)),
     ({"use_bf16": False}, (FULL, FULL, FULL))],
)  # fmt: skip
def test_a_frozen_vlm_is_held_as_it_computes(where: Path, more: dict, want: tuple) -> None:
    """bfloat16 under autocast, float32 without; the head's matrices too by default. AdamW keeps nothing for the VLM."""
    policy = tiny.stage1(where, **more).train()
    found = held(policy)
    assert (found["vlm"], found["matrices"], found["vectors"]) == want
    groups = policy.get_optim_params()
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    policy(tiny.batch(policy, WORDS))[0].backward()
    optimizer.step()
    named = {id(p): name for name, p in policy.named_parameters()}
    assert not [named[id(p)] for p in optimizer.state if part_of(named[id(p)]) == "vlm"]
    assert not [name for name, p in policy.named_parameters() if part_of(name) == "vlm" and p.grad is not None]
    assert {p.dtype for p in optimizer.state} == want[1] | want[2]


def losses(where: Path, steps: int, **more: Any) -> list[float]:
    torch.manual_seed(0)
    policy = tiny.stage1(where, {"noise_draws": 2}, **more).train()
    batches = [tiny.batch(policy, WORDS * 4, seed=s) for s in range(4)]
    groups = policy.get_optim_params()
    optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-5)
    out = []
    for step in range(steps):
        loss, _ = policy(batches[step % 4])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        policy.update()
        out.append(float(loss.detach()))
    return out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_head_held_in_bfloat16_learns_as_one_in_float32(where: Path, figure: Any) -> None:
    """At GR00T's own learning rate of 1e-4, where a step is smaller than bfloat16 resolves beside a value of 1."""
    whole, half = (np.array(losses(where, 100, use_bf16=True, model_params_fp32=fp32)) for fp32 in (True, False))
    ends = [float(curve[-20:].mean()) for curve in (whole, half)]
    figure(f"loss {whole[:20].mean():.4f} -> {ends[0]:.4f} with a float32 head, {ends[1]:.4f} with a bfloat16 one")
    fell = whole[:20].mean() - ends[0]
    assert fell > 0.05 * whole[:20].mean()
    assert abs(ends[1] - ends[0]) < 0.1 * fell


def test_the_switch_is_exact_and_the_record_keeps_the_hash(where: Path, tmp_path: Path) -> None:
    """Both stages hold the VLM in the same bits: Stage 2 at step 0 gives Stage 1's loss, as in float32."""
    one = tiny.stage1(where, use_bf16=True).eval()
    one.save_pretrained(tmp_path / "s1")
    two = tiny.stage2(tmp_path / "s1", where, {"drop_instruction": False}, use_bf16=True).eval()
    assert held(two)["vlm"] == HALF
    batch = tiny.batch(one, WORDS)
    one.model.apt_recipe = two.model.apt_recipe
    with torch.no_grad():
        first, second = (policy(batch)[0] for policy in (one, two))
    torch.testing.assert_close(first, second, atol=2e-3, rtol=2e-3)  # two layouts: words stand behind the images
    from apt_plugin.hosts.lerobot.groups import vlm_digest
    from apt_plugin.stages import read_record

    assert vlm_digest(two) == read_record(tmp_path / "s1").vlm
