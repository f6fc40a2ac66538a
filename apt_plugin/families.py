"""What a family of policies makes of a recipe, on whichever host: fields that it would not follow are refused.

Knows no framework and no host.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.vlm import Trained


@dataclass(frozen=True)
class Rules:
    """A family.

    Args:
        name: in messages. caches: kinds of feature cache beside auto; stored: what they hold, in words.
        taps: whether fusion can read other VLM layers than the one at its own depth.
        goals: whether Stage 1 can be told a goal.
    """

    name: str
    caches: tuple[str, ...]
    stored: str
    taps: bool = False
    goals: bool = False

    def __str__(self) -> str:
        return self.name


PI = Rules("π", ("kv", "vision"), "keys and values (kv) or image tokens (vision)")
GROOT = Rules("GR00T", ("states",), "backbone states", taps=True)


def check(recipe: Recipe, family: Rules) -> None:
    """
    Raises:
        AptError: a field that policies of this family cannot follow, and what to write instead.
    """
    if recipe.cache_kind not in ("auto", *family.caches):
        raise AptError(
            f"cache_kind is {recipe.cache_kind!r}; {family} stores {family.stored}: write {', '.join(family.caches)}, "
            "or auto."
        )
    if not family.taps and recipe.fusion.taps not in ("last", "spread"):
        raise AptError(
            f"fusion.taps is {recipe.fusion.taps!r}; in {family} a fusion layer reads the VLM layer at its own depth, "
            "so that there is nothing to choose. Drop it (GR00T follows it)."
        )
    if not family.goals and recipe.prior.goal != "none":
        raise AptError(
            f"prior.goal is {recipe.prior.goal!r}; so far lerobot's pi05 alone, which writes states into its prompt, "
            "can be told one. Drop --apt.prior.goal."
        )


GROOT_IMAGES, GROOT_WORDS = r"\.visual\.", r"\.language_model\.|\.lm_head\."


def groot_trained(llm: bool, visual: bool, why: str, top: Collection[int] = ()) -> Trained:
    """What a command for a GR00T trains of its VLM, by what every host of it has.

    Args:
        why: how that host writes it; top: layers of the language model that train although it does not.
    """
    words = rf"\.language_model\.(?!layers\.({'|'.join(map(str, top))})\.)|\.lm_head\." if top else GROOT_WORDS
    still = tuple(names for names, on in ((GROOT_IMAGES, visual), (words, llm)) if not on)
    return Trained("full" if llm or visual or top else "frozen", why, still if llm or visual or top else ())
