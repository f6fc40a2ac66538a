"""What a recipe asks of a feature cache: which stages read one, where it lies, what its keys hold."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD
from apt_plugin.vlm import mode_of

logger = logging.getLogger(__name__)


def wanted(recipe: Recipe, stage: int) -> bool:
    """Whether a stage reads the VLM's features from disk: a cache is named, and no part of what is cached trains."""
    return bool(recipe.cache) and mode_of(recipe, stage) == "frozen"


def folder_of(recipe: Recipe, stage: int) -> Path:
    return Path(recipe.cache) / f"stage{stage}"


def keyed_by_words(stage: int, kind: str = "") -> bool:
    """Stage 1 reads nothing that words change, and image tokens before the language model know none."""
    return stage == LIKELIHOOD and kind != "vision"


def check_wanted(recipe: Recipe, stage: int) -> None:
    """
    Raises:
        AptError: a cache is to be built, and this stage reads none.
    """
    if not wanted(recipe, stage):
        why = "trains the VLM" if recipe.cache else "names no folder"
        raise AptError(f"There is nothing to cache: this recipe {why}. Write --apt.cache DIR with a frozen VLM.")


def say_unused(recipe: Recipe, stage: int) -> None:
    """A line in the log where a named cache is left aside."""
    if recipe.cache and not wanted(recipe, stage):
        logger.info("APT: the cache is not used: this stage trains the VLM (%s).", mode_of(recipe, stage))


def views_of(augmentation: Any) -> int:
    """Augmented views of every frame, from the stamp's `augmentation`; 0 where nothing is augmented."""
    return augmentation["views"] if isinstance(augmentation, dict) else 0
