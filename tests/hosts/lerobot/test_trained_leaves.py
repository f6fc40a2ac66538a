"""`--apt.vlm host` trains in Stage 2 those parameters of the VLM that lerobot's own command trains."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from apt_plugin.hosts.lerobot import register
from apt_plugin.hosts.lerobot.families import FAMILIES
from apt_plugin.hosts.lerobot.groups import in_vlm
from apt_plugin.recipe import Recipe
from apt_plugin.vlm import resolved

SWITCHES: list[dict[str, bool]] = [
    {"train_expert_only": only, "freeze_vision_encoder": images} for only in (False, True) for images in (False, True)
]


def bench(kind: str) -> Any:
    from apt_plugin.hosts.lerobot.families.pi import bench as pi
    from apt_plugin.hosts.lerobot.families.smolvla import bench as smolvla

    if kind == "smolvla":
        return smolvla.Bench(smolvla.SIZES["tiny"], "meta")
    return pi.Bench(kind, pi.SIZES["tiny"], "meta")


def of_vlm(policy: Any) -> set[str]:
    return {name for name, p in policy.named_parameters() if in_vlm(name) and p.requires_grad}


def recipe_of(kind: str, given: dict) -> Recipe:
    (family,) = (one for one in FAMILIES if kind in one.policies)
    return resolved(Recipe(), lambda: family.trained(given))


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(n for n, on in s.items() if on) or "everything")
@pytest.mark.parametrize("kind", ["pi05", "pi0", "smolvla"])
def test_stage_2_trains_what_the_command_would_have_trained(kind: str, switches: dict) -> None:
    register()
    made = bench(kind)
    theirs = of_vlm(made.policy(kind, **switches))
    ours = of_vlm(made.ours(2, dataclasses.replace(recipe_of(kind, switches), gap_every=0)))
    assert ours == theirs
    assert bool(ours) != switches["train_expert_only"]


@pytest.mark.parametrize("llm", [False, True])
@pytest.mark.parametrize("visual", [False, True])
def test_groot_stage_2_trains_what_its_switches_say(llm: bool, visual: bool) -> None:
    """Without values, by the class that both hosts' models share; Isaac GR00T has the same test on its own model."""
    from apt_plugin.backends import torch_groot_bench
    from apt_plugin.hosts.lerobot.families.groot import bench as groot

    register()
    size = torch_groot_bench.SIZES["tiny"]
    theirs = groot.outline(size)
    theirs.backbone.set_trainable_parameters(llm, visual)
    ours = groot.outline(size, 2)
    ours.apt_recipe = recipe_of("groot", {"tune_llm": llm, "tune_visual": visual, "tune_top_llm_layers": 0})
    ours.apt_set_trainable()
    found = {name for name, p in ours.named_parameters() if name.startswith("backbone.") and p.requires_grad}
    assert found == {name for name, p in theirs.named_parameters() if name.startswith("backbone.") and p.requires_grad}
    assert bool(found) == (llm or visual)
