"""What Isaac GR00T's training does not do, said before any process is started; imports neither host nor framework."""

from __future__ import annotations

from typing import Any

from apt_plugin import families
from apt_plugin.errors import AptError
from apt_plugin.recipe import HOST, Recipe
from apt_plugin.vlm import Trained, resolved

SWITCHES = ("tune-llm", "tune-visual")


def check(recipe: Recipe) -> None:
    """
    Raises:
        AptError: a field that this host cannot follow, and what to write instead.
    """
    if recipe.vlm == "lora":
        raise AptError(
            "vlm=lora is not supported in Isaac GR00T: its pipeline, trainer and Gr00tPolicy know no adapters, and its "
            "loader stops at any key that its own model lacks, so nothing there could load what was saved. Write "
            "vlm=full with a low vlm_lr_scale, or train in lerobot (groot_apt), whose --peft saves adapters."
        )
    if recipe.mix.repo_id:
        raise AptError(
            f"mix.repo_id is {recipe.mix.repo_id!r}, and Isaac GR00T reads data from folders: write mix.root=<folder> "
            "instead."
        )
    families.check(recipe, families.GROOT)


def trained(llm: bool, visual: bool) -> Trained:
    """What a fine-tune with these switches trains of the VLM."""
    words = " ".join(f"--{'' if on else 'no-'}{name}" for name, on in zip(SWITCHES, (llm, visual), strict=True))
    return families.groot_trained(llm, visual, words)


def followed(recipe: Recipe, model: Any) -> Recipe:
    """The recipe with what the host's own switches say of the VLM, which are off from here on: the recipe has them.

    Raises:
        AptError: a switch beside a recipe that says something itself.
    """
    on = [getattr(model, name.replace("-", "_")) for name in SWITCHES]
    if recipe.vlm != HOST:
        for name, value in zip(SWITCHES, on, strict=True):
            if value:
                raise AptError(f"--{name} is given, but the recipe says vlm={recipe.vlm}. Drop one of them.")
    recipe = resolved(recipe, lambda: trained(*on))
    model.tune_llm = model.tune_visual = False
    return recipe
