"""What Isaac GR00T's training does not do, said before any process is started; imports neither host nor framework."""

from __future__ import annotations

from typing import Any

from apt_plugin import families, files
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.checkpoints import openable
from apt_plugin.hub import local_folder
from apt_plugin.recipe import HOST, Recipe
from apt_plugin.vlm import Trained, resolved

SWITCHES = ("tune-llm", "tune-visual")
SELECT_LAYER = 12  # layers that the host keeps where a config does not say


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


def top_layers(base: str | None) -> range:
    """Layers of the language model that the host trains whatever its switches say: its loader leaves
    `tune_top_llm_layers` as the base's own config has it. None where that config is not at hand: nor are weights then.

    Args:
        base: what the run starts from: a folder, a run of ours, or a hub id.
    """
    config: dict[str, Any] = {}
    try:
        if base:
            folder = local_folder(base, only="config.json")
            folder = folder if (folder / "config.json").is_file() else openable(folder)
            config = files.read_json(folder / "config.json")
    except AptError:  # said by whoever opens it
        pass
    depth = int(config.get("select_layer", SELECT_LAYER))
    return range(max(depth - int(config.get("tune_top_llm_layers") or 0), 0), depth)


def trained(llm: bool, visual: bool, base: str | None = None) -> Trained:
    """What a fine-tune of this base with these switches trains of the VLM."""
    words = " ".join(f"--{'' if on else 'no-'}{name}" for name, on in zip(SWITCHES, (llm, visual), strict=True))
    top = range(0) if llm else top_layers(base)
    if top:
        words += f", and tune_top_llm_layers={len(top)} in the config of {base}"
    return families.groot_trained(llm, visual, words, top)


def followed(recipe: Recipe, model: Any, base: str | None) -> Recipe:
    """The recipe with what the host's own switches say of the VLM, which are off from here on: the recipe has them.

    Raises:
        AptError: a switch beside a recipe that says something itself.
    """
    on = [getattr(model, name.replace("-", "_")) for name in SWITCHES]
    if recipe.vlm != HOST:
        for name, value in zip(SWITCHES, on, strict=True):
            if value:
                raise AptError(f"--{name} is given, but the recipe says vlm={recipe.vlm}. Drop one of them.")
    recipe = resolved(recipe, lambda: trained(*on, base=base))
    model.tune_llm = model.tune_visual = False
    return recipe
