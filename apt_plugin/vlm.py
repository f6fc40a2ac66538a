"""What Stage 2 does with the VLM. `host`, the default, is what the user's own command would have trained.

It is resolved once, by the adapter that can read that command, before anything else looks at the recipe. Records,
models and caches see frozen, lora or full only.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass

from apt_plugin.errors import AptError
from apt_plugin.recipe import HOST, MODES, Recipe, check_idle
from apt_plugin.stages import LIKELIHOOD

logger = logging.getLogger(__name__)

# What the comparison of examples/compare found (setting random, arms gated_one_stage and stock_frozen).
FROZEN_FOUND = " (in our comparison that followed 54 of a hundred unseen instructions, the host's own training then 62)"


@dataclass(frozen=True)
class Trained:
    """What a host's own command trains of its VLM.

    Args:
        mode: frozen, lora or full.
        why: the setting of the host that says so.
        still: patterns over names of those of the VLM's parameters that stay frozen in `full`.
    """

    mode: str
    why: str
    still: tuple[str, ...] = ()


def resolved(recipe: Recipe, host: Callable[[], Trained]) -> Recipe:
    """The recipe with frozen, lora or full in place of `host`.

    Args:
        host: called only where the recipe leaves it to the host.

    Raises:
        AptError: a value for a VLM that trains, and this one does not.
    """
    if recipe.vlm != HOST:
        return recipe
    own = host()
    out = dataclasses.replace(recipe, vlm=own.mode, freeze=[*recipe.freeze, *own.still])
    check_idle(out)
    logger.info("APT: %s", sentence(out, own))
    return out


def sentence(recipe: Recipe, own: Trained) -> str:
    """What was decided, and by what."""
    rate = f", at {recipe.vlm_lr_scale:g} of the expert's rate"
    if recipe.frozen_share:
        rate += f" after the first {recipe.frozen_share:.0%} of its steps"
    does = {
        "frozen": f"keeps the VLM frozen{FROZEN_FOUND}",
        "lora": f"trains LoRA factors of the VLM{rate}",
        "full": f"trains the VLM{rate}" + (f", but for {', '.join(own.still[:3])}" if own.still else ""),
    }[own.mode]
    return f"Stage 2 {does}, as your own command would ({own.why}). --apt.vlm {'|'.join(MODES)} says otherwise."


def mode_of(recipe: Recipe, stage: int) -> str:
    """frozen | lora | full: what a stage does with the VLM. Stage 1 never trains it.

    Raises:
        AptError: the recipe still leaves it to the host, whose command nobody read.
    """
    if stage != LIKELIHOOD:
        return "frozen"
    if recipe.vlm == HOST:
        raise AptError("vlm is 'host', and no command of a host is at hand to read. Write vlm=frozen, lora or full.")
    return recipe.vlm
