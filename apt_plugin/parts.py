"""The parts of a policy, by parameter name: what trains in a stage, and how fast.

vlm        what reads images and text, as the host publishes it
inherited  the action expert that Stage 1 trains
fusion     what Stage 2 adds, without its gates
gate       the gates
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from apt_plugin import freeze
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD

PARTS = ("vlm", "inherited", "fusion", "gate")
_GATE = re.compile(r"gate[./]w$")


def part_of(name: str, in_vlm: Callable[[str], bool]) -> str:
    """The part that a parameter belongs to.

    Args:
        name: dotted or slashed parameter name.
        in_vlm: the policy family's own rule for what is the VLM's.
    """
    if freeze.added(name):  # first: fusion may stand inside the VLM's module tree
        return "gate" if _GATE.search(name) else "fusion"
    return "vlm" if in_vlm(name) else "inherited"


def rate_scales(recipe: Recipe, stage: int) -> dict[str, float]:
    """Part -> factor on the host's learning rate."""
    slow = stage == LIKELIHOOD and recipe.inherited == "slow"
    return {
        "vlm": recipe.vlm_lr_scale,
        "inherited": recipe.inherited_lr_scale if slow else 1.0,
        "fusion": recipe.fusion_lr_scale,
        "gate": recipe.fusion_lr_scale,
    }


def decays(part: str) -> bool:
    """Whether weight decay applies: it would pull gates to their start, which for half-open ones is not closed."""
    return part != "gate"


def frozen_names(
    names: Iterable[str], recipe: Recipe, stage: int, in_vlm: Callable[[str], bool], absent: Iterable[str] = ()
) -> set[str]:
    """Parameters that the recipe holds still beside what its VLM mode says.

    Args:
        names: parameters of the model; absent: those that a feature cache stands in for (a pattern may match them).

    Raises:
        AptError: a freeze pattern of the recipe that matches nothing.
    """
    names = set(names)
    frozen = freeze.matching(recipe.freeze, [*names, *absent]) & names if recipe.freeze else set()
    if stage == LIKELIHOOD and recipe.inherited == "freeze":
        frozen |= {name for name in names if part_of(name, in_vlm) == "inherited"}
    return frozen
