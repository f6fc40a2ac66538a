"""What trains in a GR00T, and how fast: parts by name, optimizer groups by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from apt_plugin import parts
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe


def in_vlm(name: str) -> bool:
    """Whether a parameter is the VLM's, by its name in any GR00T."""
    return ".backbone." in f".{name}"


def part_of(name: str) -> str:
    """See `parts.part_of`."""
    return parts.part_of(name, in_vlm)


def parameter_groups(
    named: Mapping[str, nn.Parameter], recipe: Recipe, stage: int, rate: float, decayed: set[str]
) -> list[dict[str, Any]]:
    """Optimizer groups: own rates for VLM, slow inherited layers and fusion; gates and `named - decayed` undecayed."""
    scale = parts.rate_scales(recipe, stage)
    # By what the optimizer sees: one group of gates alone is tiny, see below.
    groups: dict[tuple[float, bool], list] = {}
    for name, parameter in named.items():
        if parameter.requires_grad:
            part = part_of(name)
            groups.setdefault((rate * scale[part], name in decayed and parts.decays(part)), []).append(parameter)
    return [
        {"params": parameters, "lr": lr, **({} if decays else {"weight_decay": 0.0})}
        for (lr, decays), parameters in groups.items()
    ]


def check_sharded_groups(groups: list[dict[str, Any]], processes: int) -> None:
    """ZeRO-2 cuts each group into equal aligned slices, and DeepSpeed 0.17.6 stops (IndexError) at an empty one.

    Raises:
        AptError: a group so small that a process would get nothing of it: a handful of gates with a rate of their own.
    """
    for group in groups:
        size = sum(p.numel() for p in group["params"])
        share = -(-size // (2 * processes)) * 2  # DeepSpeed aligns slices to two elements
        if size <= (processes - 1) * share:
            raise AptError(
                f"DeepSpeed cannot deal an optimizer group of {size} numbers (learning rate {group['lr']:g}) to "
                f"{processes} processes. Write --apt.fusion_lr_scale 1 (the gates then share a group with other "
                "undecayed parameters) or --apt.fusion.gate channel, or train with the host's DDP."
            )
