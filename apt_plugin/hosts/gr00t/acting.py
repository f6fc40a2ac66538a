"""What a process acts with instead of what its checkpoint says: the few recipe fields that acting may choose anew.

Read where a model is built from a checkpoint, so that every program of the host follows it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.stages import PRIOR

_CHOSEN: dict[str, Any] = {}


def install(chosen: Mapping[str, Any]) -> None:
    """For the life of this process; an empty mapping takes it back."""
    _CHOSEN.clear()
    _CHOSEN.update(chosen)


def applied(recipe: Recipe, stage: int) -> Recipe:
    """A checkpoint's recipe with what was chosen for this process.

    Raises:
        AptError: a choice about language, on a prior that has no pathway for it.
    """
    for name, value in _CHOSEN.items():
        if stage == PRIOR:
            raise AptError(f"--apt.{name} needs a Stage-2 checkpoint: this one is Stage 1, which hears no instruction.")
        logging.info("APT: %s is %s here; the checkpoint says %s.", name, value, getattr(recipe, name))
    return dataclasses.replace(recipe, **_CHOSEN)
