"""Attention weights and feed-forward activations are computed again in the backward pass: gradients to the bit."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from apt_plugin.backends.torch_recompute import everything_kept
from apt_plugin.hosts.lerobot import register
from apt_plugin.recipe import Fusion, Recipe

DRAWS = 3


def bench(kind: str) -> Any:
    from apt_plugin.hosts.lerobot.families.pi import bench as pi
    from apt_plugin.hosts.lerobot.families.smolvla import bench as smolvla

    register()
    if kind == "smolvla":
        return smolvla.Bench(smolvla.SIZES["tiny"], "cpu")
    return pi.Bench(kind, pi.SIZES["tiny"], "cpu")


def step(made: Any, policy: Any, kept: bool, stage: int) -> tuple[dict[str, torch.Tensor], set[tuple[int, int]]]:
    """Gradients of one step, and the last two dimensions of each tensor that its forward pass kept."""
    torch.manual_seed(1)
    images, masks, prompt, actions = made.inputs(stage == 2)
    noise, state = made.noise(DRAWS), made.state()
    shapes: set[tuple[int, int]] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() > 1:
            shapes.add((int(tensor.shape[-2]), int(tensor.shape[-1])))
        return tensor

    with everything_kept() if kept else nullcontext():
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = policy.model.forward(images, masks, prompt, actions, *noise, state)["loss"].mean()
        loss.backward()
    found = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad(set_to_none=True)
    return found, shapes


@pytest.mark.parametrize(("family", "stage", "vlm", "kind"), [
    ("pi05", 2, "full", "interleaved"), ("pi0", 2, "full", "host"), ("smolvla", 1, "frozen", "interleaved"),
    ("smolvla", 2, "full", "interleaved"), ("smolvla", 2, "frozen", "host"),
])  # fmt: skip
def test_gradients_are_those_of_a_step_that_keeps_everything(family: str, stage: int, vlm: str, kind: str) -> None:
    made = bench(family)
    policy = made.ours(stage, Recipe(vlm=vlm, fusion=Fusion(kind=kind), drop_instruction=False, gap_every=0))
    for name, p in policy.named_parameters():  # a closed fusion has few gradients
        if name.endswith("o_proj.weight") and "apt_fusion" in name:
            torch.nn.init.normal_(p, std=0.1)
    (kept, all_shapes), (ours, shapes) = step(made, policy, True, stage), step(made, policy, False, stage)
    assert kept.keys() == ours.keys()
    assert len(kept) > 10
    assert not [name for name in kept if not torch.equal(kept[name], ours[name])]
    with torch.no_grad():
        keys = policy.model.prefix(*made.inputs(stage == 2)[:3], made.state()).kept.shape[1]
    lost = all_shapes - shapes
    assert shapes < all_shapes
    assert [place for place in lost if place[0] in (made.size.chunk, made.size.chunk + 1) and place[1] >= keys]


def test_pi_under_a_frozen_vlm_computes_nothing_twice() -> None:
    """It keeps less than the host's own step anyway, and from a cache the weights would be 6 % of its FLOPs."""
    made = bench("pi05")
    policy = made.ours(1, Recipe(vlm="frozen", drop_instruction=False, gap_every=0))
    assert step(made, policy, True, 1)[1] == step(made, policy, False, 1)[1]
