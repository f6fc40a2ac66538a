"""What a process acts with instead of what its checkpoint says: the few recipe fields that acting may choose anew.

Read where a model is built from a checkpoint, so that every program of the host follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apt_plugin.launch import acting_as
from apt_plugin.recipe import Recipe

_CHOSEN: dict[str, Any] = {}


def install(chosen: Mapping[str, Any]) -> None:
    """For the life of this process; an empty mapping takes it back."""
    _CHOSEN.clear()
    _CHOSEN.update(chosen)


def applied(recipe: Recipe, stage: int) -> Recipe:
    """A checkpoint's recipe with what was chosen for this process, see `launch.acting_as`."""
    return acting_as(recipe, stage, _CHOSEN)
