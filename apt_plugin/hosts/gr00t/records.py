"""What an APT checkpoint of Isaac GR00T says of itself, and what must hold before it is used."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import apt_plugin
from apt_plugin import files, freeze, stages
from apt_plugin.backends import torch_params
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import versions
from apt_plugin.hosts.gr00t.names import POLICIES, WEIGHTS
from apt_plugin.hub import local_folder
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD, PRIOR, RECORD, Record

FAMILY = "Gr00tN1d7"


def check_start(path: str, stage: int, recipe: Recipe) -> Record | None:
    """Refuse a checkpoint that `stage` cannot start from, before a model is built; the record of a Stage 1 for a 2.

    Raises:
        AptError: with what it is and what to write.
    """
    folder = local_folder(path)
    kind = files.read_json(folder / "config.json").get("model_type") if (folder / "config.json").is_file() else None
    if (why := versions.of_another_version(kind)) is not None:
        raise AptError(f"{folder} holds a {kind!r} model. {why}.")
    if stage == LIKELIHOOD:
        return stages.check_stage1(folder, FAMILY, recipe, WEIGHTS)
    if kind == POLICIES[FAMILY] or (folder / RECORD).exists():
        raise AptError(
            f"{folder} is an APT checkpoint; Stage 1 starts from stock {FAMILY} weights. To go on with a Stage 1 run: "
            "--resume-from-checkpoint."
        )
    if kind is not None and kind != FAMILY:
        raise AptError(f"{folder} holds a {kind!r} model; the recipe in Isaac GR00T knows {FAMILY!r} (N1.7).")
    return None


def check_frozen(model: Any) -> str:
    """The VLM's digest; equal to the one at the start of the stage where the recipe freezes it.

    Raises:
        AptError: frozen is not frozen.
    """
    now, start = model.apt_vlm_digest(), model.apt_vlm_start
    trains = model.apt_stage == LIKELIHOOD and model.apt_recipe.vlm == "full"
    if not trains and start is not None and now != start:
        raise AptError(
            f"The VLM was to stay frozen and its hash went from {start[:12]} to {now[:12]}. Something trains it; "
            "nothing was saved."
        )
    return now


def check_savable(model: Any) -> None:
    """
    Raises:
        AptError: a parameter is not finite, or a frozen VLM has changed.
    """
    if (name := torch_params.first_non_finite(model)) is not None:
        raise stages.NonFiniteError(f"Parameter {name} is not finite after step {model.apt_step}: not saved.")
    check_frozen(model)


def write(model: Any, folder: Path) -> None:
    """Written last: a folder with an apt.json has whole weights."""
    with open(folder / WEIGHTS, "rb") as file:
        os.fsync(file.fileno())
    now = check_frozen(model)
    stages.write_record(
        folder,
        Record(
            stage=model.apt_stage,
            policy=FAMILY,
            recipe=model.apt_recipe,
            host="gr00t N1.7",
            plugin=apt_plugin.__version__,
            steps=model.apt_step,
            layout=freeze.layout(torch_params.shapes(model)),
            vlm=now,
            vlm_start=model.apt_vlm_start or now,
            weights=files.sha256_of(folder / WEIGHTS),
            curve=model.apt_curve,
            stage1=model.apt_stage1,
        ),
    )


def resume(model: Any, folder: Path) -> None:
    """Go on with a checkpoint of this stage: steps, curve and the VLM's first hash come from its record.

    Raises:
        AptError: not a checkpoint of this stage, or changed weights.
    """
    record = stages.read_record(folder)
    if record.stage != model.apt_stage:
        raise AptError(f"{folder} is of Stage {record.stage}, this run of Stage {model.apt_stage}.")
    files.check_safetensors(folder / WEIGHTS, record.weights)
    torch_params.check_tree(model, torch_params.file_shapes(folder / WEIGHTS), folder)
    model.apt_step, model.apt_curve, model.apt_stage1 = record.steps, record.curve, record.stage1
    model.apt_vlm_start = record.vlm_start


def note_prior(model: Any, folder: Path, record: Record) -> None:
    """Where a Stage 2 came from."""
    model.apt_stage1 = {
        "path": str(folder), "weights": record.weights, "vlm": record.vlm, "steps": record.steps,
    }  # fmt: skip
    assert record.stage == PRIOR
    logging.info("APT: %s", record.trend().sentence())
