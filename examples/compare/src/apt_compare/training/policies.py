"""π0.5: the policies of an arm, through the doors that users have: checkpoints, `from_pretrained`, PEFT.

`policies_groot` has the same functions for GR00T.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from safetensors.torch import load_file

import apt_plugin.tabletop.host.configuration_pi05_tiny  # noqa: F401  # registers the stock type
from apt_compare.spec import Arm, Setting
from apt_compare.training import base
from apt_compare.training.bodies import PiBody
from apt_plugin.files import read_json, write_json
from apt_plugin.hosts.lerobot.groups import part_of
from apt_plugin.hosts.lerobot.names import WEIGHTS
from apt_plugin.recipe import Recipe
from apt_plugin.tabletop import checkpoint, grounding
from apt_plugin.tabletop.checkpoint import SHARED_FIELDS
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.host.modeling_pi05_tiny import PI05TinyPolicy


def sizes_of(setting: Setting) -> dict[str, Any]:
    return {**grounding.SIZES, **setting.sizes}


def ground(setting: Setting, vlm_seed: int, folder: Path) -> None:
    how = base.grounding_of(setting, vlm_seed)
    grounding.ground(folder, base.lesson_world(setting), how, sizes_of(setting), progress=False)


def start(setting: Setting, grounded: Path, seed: int, folder: Path) -> Path:
    """A stock checkpoint: the VLM of `grounded`, an expert drawn from `seed`. Both kinds of policies load it."""
    config = read_json(grounded / "config.json")
    policy = checkpoint.build(config["sizes"], grounded / "tokenizer", config["tokenizer_max_length"], seed)
    stored = load_file(grounded / WEIGHTS)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if part_of(name) == "vlm":
                parameter.copy_(stored[name])
    return keep(policy, setting, grounded, folder)


def keep(policy: Any, setting: Setting, grounded: Path, folder: Path) -> Path:
    """A stock checkpoint of a policy of ours, from which both kinds of policies start."""
    checkpoint.save(policy, folder, reference_stats(base.world_of(setting)))
    # Shared first stages outlive this folder, and their processors name the tokenizer by its path.
    told = {**read_json(folder / "config.json"), "tokenizer_name": str(grounded / "tokenizer")}
    write_json(folder / "config.json", told)
    return folder


def stock(start: Path, arm: Arm, weights: Path | None = None) -> PiBody:
    """lerobot's own policy. `weights`: a Stage-1 result of the recipe, whose tensors are then all taken over (two
    stages with plain insertion of the language tokens)."""
    config = PreTrainedConfig.from_pretrained(start)
    config.train_expert_only = arm.vlm == "frozen"  # type: ignore[attr-defined]
    policy = PI05TinyPolicy.from_pretrained(start, config=config)
    if weights is not None:
        policy.load_state_dict(load_file(weights / WEIGHTS), strict=True)
    return PiBody(policy, gated=False)


def gated(stage: int, folder: Path, recipe: Recipe, start: Path) -> Any:
    """The recipe's policy: Stage 1 from the stock checkpoint `start`, or Stage 2 from a Stage-1 result `folder`."""
    from apt_plugin.hosts.lerobot import register

    register()
    told = PreTrainedConfig.from_pretrained(start)
    shared = {name: getattr(told, name) for name in SHARED_FIELDS}
    config = PreTrainedConfig.get_choice_class("pi05_apt")(
        stage=stage, recipe=dataclasses.replace(recipe, gap_every=0), device="cpu", push_to_hub=False,
        input_features=told.input_features, output_features=told.output_features, **shared,
    )  # type: ignore[call-arg]  # fmt: skip
    return get_policy_class("pi05_apt").from_pretrained(folder, config=config)


def stage1(start: Path, arm: Arm) -> PiBody:
    """Stage 1 knows of the recipe only the prefix and its draws, so that arms that differ in Stage 2 share it."""
    return PiBody(gated(1, start, stage1_recipe(arm), start), gated=True)


def stage1_recipe(arm: Arm) -> Recipe:
    told = arm.resolved() if arm.policy == "apt" else Recipe()
    draws = arm.stage1.draws if arm.stage1 else 1
    return Recipe(
        prefix=told.prefix, drop_instruction=told.drop_instruction, noise_draws=draws, prior=told.prior
    )  # fmt: skip


def stage2(prior: Path, start: Path, arm: Arm, seed: int) -> PiBody:
    """Stage 2 from a Stage-1 result; LoRA through the host's own wrapper, as lerobot-train applies it."""
    torch.manual_seed(seed)  # what fusion starts from
    policy = gated(2, prior, arm.resolved(), start)
    if arm.vlm == "lora":
        policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 16, "lora_alpha": 16})
    return PiBody(policy, gated=True)


def processors(body: PiBody, stats: Any, grounded: Path) -> tuple[Any, Any]:
    """The policy's own input and output pipelines under `stats` (tabletop.data.reference_stats)."""
    as_tensors = {key: {name: torch.as_tensor(v) for name, v in group.items()} for key, group in stats.items()}
    return make_pre_post_processors(body.policy.config, dataset_stats=as_tensors)
