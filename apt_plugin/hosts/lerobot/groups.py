"""The parts of a policy: which is the VLM and its digest, what trains, and how fast by the recipe."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from apt_plugin import freeze
from apt_plugin.backends import torch_params
from apt_plugin.stages import LIKELIHOOD

VLM = (".paligemma.", ".backbone.")  # π, GR00T
# Its embedding table was removed by the host, so its output head never sees a gradient.
UNUSED = "gemma_expert.lm_head."


def part_of(name: str) -> str:
    """vlm | gate | fusion | inherited, by parameter name."""
    if any(part in name for part in VLM):
        return "vlm"
    if freeze.added(name):
        return "gate" if name.endswith("gate.w") else "fusion"
    return "inherited"


def vlm_digest(policy: Any) -> str:
    """SHA-256 over the VLM's parameters as they are now (LoRA's own left out), in memory or in their file."""
    here = {n: p for n, p in policy.named_parameters() if part_of(n) == "vlm"}
    absent = getattr(policy, "apt_absent", None)
    return torch_params.digest(here.items()) if absent is None else absent.digest(here)


def set_trainable(policy: nn.Module, config: Any) -> None:
    """Apply the recipe's freezing on top of what the host's `train_expert_only` already did.

    Raises:
        AptError: a freeze pattern of the recipe that matches nothing.
    """
    recipe, two = config.recipe, config.stage == LIKELIHOOD
    named = dict(policy.named_parameters())
    absent = getattr(policy, "apt_absent", None)
    names = [*named, *(absent.specs if absent else ())]
    frozen = freeze.matching(recipe.freeze, names) & named.keys() if recipe.freeze else set()
    frozen |= {name for name in named if UNUSED in name}
    if two and recipe.inherited == "freeze":
        frozen |= {name for name in named if part_of(name) == "inherited"}
    for name in frozen:
        named[name].requires_grad_(False)


def optimizer_groups(policy: nn.Module, config: Any) -> list[dict[str, Any]]:
    """Parameter groups for the host's AdamW: own rates for VLM, slow inherited layers and fusion; gates undecayed.

    Weight decay would pull gates to their start and lets the release's gates drift to 0.5.
    """
    recipe, rate = config.recipe, config.optimizer_lr
    scale = {"vlm": recipe.vlm_lr_scale, "inherited": 1.0}
    scale["fusion"] = scale["gate"] = recipe.fusion_lr_scale
    if config.stage == LIKELIHOOD and recipe.inherited == "slow":
        scale["inherited"] = recipe.inherited_lr_scale
    groups: dict[str, list] = {"inherited": [], "fusion": [], "gate": [], "vlm": []}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name)].append(parameter)
    out = []
    for part, parameters in groups.items():
        if parameters:
            group: dict[str, Any] = {"params": parameters, "lr": rate * scale[part]}
            if part == "gate":
                group["weight_decay"] = 0.0
            out.append(group)
    return out


def trainable_share(policy: nn.Module) -> float:
    """Share of parameters that train, in [0, 1]."""
    absent = getattr(policy, "apt_absent", None)
    total = sum(p.numel() for p in policy.parameters())
    total += sum(math.prod(shape) for shape in absent.shapes.values()) if absent else 0
    return sum(p.numel() for p in policy.parameters() if p.requires_grad) / max(total, 1)
