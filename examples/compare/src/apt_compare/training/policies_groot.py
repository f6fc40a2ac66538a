"""GR00T N1.7: the policies of an arm, as `policies` has them for π0.5."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model

from apt_compare.groot import body as groot_body
from apt_compare.groot import grounding as groot_grounding
from apt_compare.spec import Arm, Setting
from apt_compare.training import base
from apt_compare.training.bodies_groot import GrootBody
from apt_compare.training.policies import stage1_recipe
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.names import WEIGHTS
from apt_plugin.recipe import Recipe
from apt_plugin.tabletop.data import reference_stats


def sizes_of(setting: Setting) -> dict[str, Any]:
    return dataclasses.asdict(base.build(groot_body.Sizes, setting.sizes, f"setting {setting.name}, sizes"))


def ground(setting: Setting, vlm_seed: int, folder: Path) -> None:
    how = dataclasses.replace(base.grounding_of(setting, vlm_seed), short=0.0)
    sizes = groot_body.Sizes(**sizes_of(setting))
    groot_grounding.ground(folder, base.lesson_world(setting), how, sizes, progress=False)


def start(setting: Setting, grounded: Path, seed: int, folder: Path) -> Path:
    """A stock checkpoint: the VLM of `grounded`, an action head drawn from `seed`."""
    model = groot_body.build(folder, groot_body.Sizes(**sizes_of(setting)), seed)
    told = groot_body.policy_of(grounded, "groot")._groot_model.backbone.state_dict()
    model.backbone.load_state_dict(told, strict=True)
    return groot_body.save(model, folder, reference_stats(base.world_of(setting)))


def stock(start: Path, arm: Arm, weights: Path | None = None) -> GrootBody:
    if arm.token_loss:
        raise AptError(
            f"{arm.name}: token_loss is made for π0.5, whose VLM answers in its prompt; not for body: groot."
        )
    tuned: dict[str, Any] = {"tune_llm": True, "tune_visual": True} if arm.vlm == "full" else {}
    policy = groot_body.policy_of(start, "groot", **tuned)
    if weights is not None:
        load_model(policy, str(weights / WEIGHTS), strict=True)  # which stores tied weights once
    return GrootBody(policy, gated=False)


def _gated(start: Path, stage: int, recipe: Recipe, prior: Path | None = None) -> Any:
    quiet = dataclasses.replace(recipe, gap_every=0)
    return groot_body.policy_of(start, "groot_apt", prior, stage=stage, recipe=quiet)


def stage1(start: Path, arm: Arm) -> GrootBody:
    return GrootBody(_gated(start, 1, stage1_recipe(arm)), gated=True)


def stage2(prior: Path, start: Path, arm: Arm, seed: int) -> GrootBody:
    torch.manual_seed(seed)
    policy = _gated(start, 2, arm.resolved(), prior)
    if arm.vlm == "lora":
        policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 16, "lora_alpha": 16})
    return GrootBody(policy, gated=True)


def processors(body: GrootBody, stats: Any, grounded: Path) -> tuple[Any, Any]:
    """The saved ones of the grounded body, which outlive a run: the host cannot make them anew without the hub. Their
    statistics are those of the lessons' world, the same for every arm."""
    return groot_body.processors_of(grounded, body.policy.config)
