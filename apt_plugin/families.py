"""What a family of policies makes of a recipe, on whichever host: fields that it would not follow are refused.

Knows no framework and no host.
"""

from __future__ import annotations

from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.vlm import Trained

PI, GROOT = "π", "GR00T"
_CACHES = {PI: ("auto", "kv", "vision"), GROOT: ("auto", "states")}
_STORED = {PI: "keys and values (kv) or image tokens (vision)", GROOT: "backbone states"}


def check(recipe: Recipe, family: str) -> None:
    """
    Raises:
        AptError: a field that policies of this family cannot follow, and what to write instead.
    """
    if recipe.cache_kind not in (known := _CACHES[family]):
        raise AptError(
            f"cache_kind is {recipe.cache_kind!r}; {family} stores {_STORED[family]}: write {', '.join(known[1:])}, or "
            "auto."
        )
    if family == PI and recipe.fusion.taps not in ("last", "spread"):
        raise AptError(
            f"fusion.taps is {recipe.fusion.taps!r}; in {PI} a fusion layer reads the VLM layer at its own depth, so "
            "that there is nothing to choose. Drop it (GR00T follows it)."
        )


GROOT_IMAGES, GROOT_WORDS = r"\.visual\.", r"\.language_model\.|\.lm_head\."


def groot_trained(llm: bool, visual: bool, why: str) -> Trained:
    """What a command for a GR00T trains of its VLM, by the two switches that every host of it has.

    Args:
        why: how that host writes them.
    """
    if llm and visual:
        return Trained("full", why)
    return Trained("full", why, (GROOT_IMAGES if llm else GROOT_WORDS,)) if llm or visual else Trained("frozen", why)
