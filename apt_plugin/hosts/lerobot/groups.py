"""The parts of a policy: which is the VLM and its digest, what trains, and how fast by the recipe."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from apt_plugin import parts
from apt_plugin.backends import torch_params
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.families import FAMILIES

VLM = tuple(family.vlm for family in FAMILIES)
UNUSED = tuple(part for family in FAMILIES for part in family.unused)


def in_vlm(name: str) -> bool:
    """Whether a parameter is the VLM's, by its name in lerobot."""
    return any(part in name for part in VLM)


def part_of(name: str) -> str:
    """See `parts.part_of`."""
    return parts.part_of(name, in_vlm)


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
    named = dict(policy.named_parameters())
    absent = getattr(policy, "apt_absent", None)
    frozen = parts.frozen_names(named, config.recipe, config.stage, in_vlm, absent.specs if absent else ())
    frozen |= {name for name in named if any(part in name for part in UNUSED)}
    for name in frozen:
        named[name].requires_grad_(False)


def check_wrapped(policy: nn.Module, mode: str) -> None:
    """Raises AptError: the recipe asks for LoRA and the host was not told to wrap the policy, so no factor trains."""
    if mode == "lora" and not any(".lora_" in name for name, _ in policy.named_parameters()):
        raise AptError("vlm=lora, but nothing is wrapped: add --peft.method_type=LORA, or use apt-plugin run.")


def optimizer_groups(policy: nn.Module, config: Any) -> list[dict[str, Any]]:
    """Parameter groups for the host's AdamW: own rates for VLM, slow inherited layers and fusion; gates undecayed.

    The order of the groups is part of a checkpoint: a resumed optimizer finds its moments by it.
    """
    rate, scale = config.optimizer_lr, parts.rate_scales(config.recipe, config.stage)
    groups: dict[str, list] = {"inherited": [], "fusion": [], "gate": [], "vlm": []}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name)].append(parameter)
    out = []
    for part, parameters in groups.items():
        if parameters:
            group: dict[str, Any] = {"params": parameters, "lr": rate * scale[part]}
            if not parts.decays(part):
                group["weight_decay"] = 0.0
            out.append(group)
    return out


def trainable_share(policy: nn.Module) -> float:
    """Share of parameters that train, in [0, 1]."""
    absent = getattr(policy, "apt_absent", None)
    total = sum(p.numel() for p in policy.parameters())
    total += sum(math.prod(shape) for shape in absent.shapes.values()) if absent else 0
    return sum(p.numel() for p in policy.parameters() if p.requires_grad) / max(total, 1)
