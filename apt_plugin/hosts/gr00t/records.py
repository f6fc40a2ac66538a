"""What an APT checkpoint of Isaac GR00T says of itself, and what must hold before it is used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from apt_plugin import files, freeze, seal, stages
from apt_plugin.agreement import check_agreement
from apt_plugin.backends import groot_versions, torch_params
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.names import FAMILY, POLICIES, SEALED, WEIGHTS
from apt_plugin.hub import local_folder
from apt_plugin.recipe import Recipe, flatten, from_flat
from apt_plugin.stages import LIKELIHOOD, RECORD, Record


def check_start(path: str, stage: int, recipe: Recipe, facts: dict[str, Any] | None = None) -> Record | None:
    """Refuse a checkpoint that `stage` cannot start from, before a model is built; the record of a Stage 1 for a 2.

    Args:
        facts: embodiments and their modalities as this stage reads them, see `data.facts`.

    Raises:
        AptError: with what it is and what to write.
    """
    folder = local_folder(path)
    kind = files.read_json(folder / "config.json").get("model_type") if (folder / "config.json").is_file() else None
    if (why := groot_versions.of_another_version(kind)) is not None:
        raise AptError(f"{folder} holds a {kind!r} model. {why}.")
    if stage == LIKELIHOOD:
        record = stages.check_stage1(folder, FAMILY, recipe, WEIGHTS)
        check_beside(folder, record)
        check_embodiments(folder, record.facts or {}, facts or {})
        return record
    if kind == POLICIES[FAMILY] or (folder / RECORD).exists():
        raise AptError(
            f"{folder} is an APT checkpoint; Stage 1 starts from stock {FAMILY} weights. To go on with a Stage 1 run: "
            "--resume-from-checkpoint."
        )
    if kind is not None and kind != FAMILY:
        raise AptError(f"{folder} holds a {kind!r} model; the recipe in Isaac GR00T knows {FAMILY!r} (N1.7).")
    return None


def check_embodiments(folder: Path, stage1: dict[str, Any], now: dict[str, Any]) -> None:
    """Stage 2 learns on robots that Stage 1 knows: each has encoders and a decoder of its own.

    Raises:
        AptError: naming the robot, or the modality that is read otherwise than in Stage 1.
    """
    if stage1 and (new := sorted(now.keys() - stage1.keys())):
        raise AptError(
            f"{folder} was trained on {', '.join(sorted(stage1))}, and Stage 2 on {', '.join(new)} would start from "
            "encoders that Stage 1 never trained. Name data of the same embodiment, or train Stage 1 on this one too."
        )
    kept = {f"{tag}.{kind}": value for tag, kinds in stage1.items() for kind, value in kinds.items()}
    check_agreement(kept, {f"{tag}.{kind}": value for tag, kinds in now.items() for kind, value in kinds.items()}, {})


def check_beside(folder: Path, record: Record) -> None:
    """Config, processor and statistics are those that the weights were written with.

    Raises:
        AptError: naming the file and the field.
    """
    seal.check(record.sealed, [folder, folder / "processor"])


def check_whole(folder: Path) -> Record:
    """Every file of a checkpoint of ours is the one that was written; asked at every opening, before any is used.

    Raises:
        AptError: a file that is missing, truncated or changed, or a config that says another stage or recipe.
    """
    record = stages.read_record(folder)
    check_beside(folder, record)
    config = files.read_json(folder / "config.json")
    said = from_flat(flatten(config.get("apt_recipe") or {}))
    if (config.get("apt_stage"), said) != (record.stage, record.recipe):
        raise AptError(
            f"{folder / 'config.json'} says Stage {config.get('apt_stage')} or a recipe that is not the one in "
            f"{RECORD} (Stage {record.stage}). One of them was edited: restore it, or use another checkpoint."
        )
    files.check_safetensors(folder / WEIGHTS, record.weights)
    return record


def check_loaded(info: dict[str, Any], folder: Path) -> None:
    """Every tensor came from the file: transformers only warns, and leaves random numbers where one is missing.

    Args:
        info: its loading info.

    Raises:
        AptError: naming the tensors.
    """
    shapes = {name: (theirs, ours) for name, theirs, ours in info["mismatched_keys"]}
    stages.check_shared(set(info["missing_keys"]), set(info["unexpected_keys"]), shapes, folder / WEIGHTS)


def check_savable(model: Any) -> None:
    """
    Raises:
        AptError: see `StageState.check`.
    """
    model.apt_run.check(model.apt_vlm_digest(), torch_params.first_non_finite(model))


def write(model: Any, folder: Path, processor: Path | None = None) -> None:
    """Written last: a folder with an apt.json has whole weights.

    Args:
        processor: the folder that the host copies the processor's files from, once this record is written.
    """
    beside = [(processor or folder) / name for name in SEALED]
    with open(folder / WEIGHTS, "rb") as file:
        os.fsync(file.fileno())
    record = model.apt_run.record(
        vlm=model.apt_vlm_digest(),
        weights=files.sha256_of(folder / WEIGHTS),
        layout=freeze.layout(torch_params.shapes(model)),
        sealed=seal.seal([folder / "config.json", *(path for path in beside if path.is_file())]),
    )
    stages.write_record(folder, record)


def resume(model: Any, folder: Path) -> None:
    """Go on with a checkpoint of this stage: steps, curve and the VLM's first hash come from its record.

    Raises:
        AptError: not a checkpoint of this stage, or changed weights.
    """
    record = stages.read_record(folder)
    if record.stage == model.apt_stage:  # another stage's files are not of interest
        check_whole(folder)
    model.apt_run.resume(folder, record)
    torch_params.check_tree(model, torch_params.file_shapes(folder / WEIGHTS), folder)
