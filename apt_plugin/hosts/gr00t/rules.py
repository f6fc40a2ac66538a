"""What Isaac GR00T's training does not do, said before any process is started; imports neither host nor framework."""

from __future__ import annotations

from apt_plugin import families
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe


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
