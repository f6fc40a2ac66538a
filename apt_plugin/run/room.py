"""Room for Stage 2's cache, asked for once Stage 1's tells what a frame takes: before the first step of the run."""

from __future__ import annotations

import logging

from apt_plugin.cache.building import free_bytes, readable, written
from apt_plugin.cache.request import folder_of
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.run.preflight import Facts

logger = logging.getLogger(__name__)


def check_next(recipe: Recipe, first: Facts | None, second: Facts | None) -> None:
    """
    Args:
        first, second: what is known of the stages; None of one that has nothing left to do.

    Raises:
        AptError: Stage 2's cache, at Stage 1's bytes a frame, does not fit on the disk. A warning only where the kind
            is the plugin's choice: it may choose a smaller one.
    """
    if first is None or second is None or not first.frames or not second.frames:
        return
    folders = [folder_of(recipe, stage) for stage in (1, 2)]
    needed = written(folders[0]) * second.frames // first.frames - written(folders[1])
    free = free_bytes(folders[1])
    if needed <= free:
        return
    words = (
        f"Stage 2's cache takes at least {readable(needed)}, at the bytes of Stage 1's, and {readable(free)} are free "
        f"in {recipe.cache}. Make room, name another disk with --apt.cache, or a smaller --apt.cache_kind."
    )
    if recipe.cache_kind != "auto":
        raise AptError(words)
    logger.warning("APT: %s", words)
