"""What trains in a GR00T, and how fast: parts by name, optimizer groups by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from apt_plugin import freeze
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD


def part_of(name: str) -> str:
    """vlm | gate | fusion | inherited, by parameter name."""
    if ".backbone." in f".{name}":
        return "vlm"
    if freeze.added(name):
        return "gate" if name.endswith("gate.w") else "fusion"
    return "inherited"


def parameter_groups(
    named: Mapping[str, nn.Parameter], recipe: Recipe, stage: int, rate: float, decayed: set[str]
) -> list[dict[str, Any]]:
    """Optimizer groups: own rates for VLM, slow inherited layers and fusion; gates and `named - decayed` undecayed.

    Weight decay would pull gates to their start.
    """
    scale = {"vlm": recipe.vlm_lr_scale, "inherited": 1.0}
    scale["fusion"] = scale["gate"] = recipe.fusion_lr_scale
    if stage == LIKELIHOOD and recipe.inherited == "slow":
        scale["inherited"] = recipe.inherited_lr_scale
    groups: dict[tuple[str, bool], list] = {}
    for name, parameter in named.items():
        if parameter.requires_grad:
            part = part_of(name)
            groups.setdefault((part, name in decayed and part != "gate"), []).append(parameter)
    return [
        {"params": parameters, "lr": rate * scale[part], **({} if decays else {"weight_decay": 0.0})}
        for (part, decays), parameters in groups.items()
    ]
