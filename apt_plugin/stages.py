"""The two stages: what each checkpoint says of itself, and what must hold before Stage 2 may start.

Every checkpoint holds `apt.json` beside its weights: recipe, stage, versions, hashes, curve. It is read and
checked before a model is built, so that a refused start leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apt_plugin import files
from apt_plugin.agreement import check_agreement
from apt_plugin.curve import Curve, Trend, trend
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe, flatten, from_flat

SCHEMA = 1
RECORD = "apt.json"
PROOFS = "proofs.json"  # in a run's folder: what `apt-plugin prove` said of its Stage 1
PRIOR, LIKELIHOOD = 1, 2  # Stage 1 trains the VA prior, Stage 2 the VLA likelihood


@dataclass(frozen=True)
class Record:
    """What a checkpoint says of itself (apt.json)."""

    stage: int
    policy: str  # the host's name for the model family: pi05, pi0, ...
    recipe: Recipe
    host: str  # e.g. "lerobot 0.6.1"
    plugin: str
    steps: int  # optimiser steps taken in this stage
    layout: str  # freeze.layout of the shared tensors
    vlm: str  # freeze.digest of the VLM as written
    vlm_start: str  # the same when this stage began
    weights: str  # SHA-256 of the weights file
    curve: Curve = field(default_factory=Curve)
    stage1: dict[str, Any] | None = None  # Stage 2: where it came from
    proofs: dict[str, Any] | None = None
    facts: dict[str, Any] | None = None  # what Stage 2 must have in common with it, see `agreement`
    sealed: dict[str, dict[str, str]] | None = None  # the files beside the weights, see `seal`
    base: str | None = None  # what Stage 1 began with, as the user named it; None: not recorded

    def trend(self) -> Trend:
        return trend(self.curve.points("loss")[1])


def write_record(folder: Path, record: Record) -> None:
    """Written last and atomically: a folder with an apt.json has whole weights."""
    value = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    value |= {"schema": SCHEMA, "recipe": dataclasses.asdict(record.recipe), "curve": record.curve.as_json()}
    files.write_json(folder / RECORD, value)


def read_record(folder: Path) -> Record:
    """Read and validate a checkpoint's apt.json.

    Raises:
        AptError: missing, truncated, from a newer plugin, or naming an unknown recipe field.
    """
    path = folder / RECORD
    value = files.read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        seen = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise AptError(f"{path} has schema {seen}; this plugin reads {SCHEMA}. Install the version that wrote it.")
    value.pop("schema")
    try:
        recipe = from_flat(flatten(value.pop("recipe")))
        curve = Curve.from_json(value.pop("curve"))
        for spec in dataclasses.fields(Record):  # a null hash would skip the check of the weights
            if spec.type in ("int", "str") and type(value[spec.name]).__name__ != spec.type:
                raise TypeError(f"{spec.name} is {value[spec.name]!r}")
        return Record(recipe=recipe, curve=curve, **value)
    except AptError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise AptError(f"{path} lacks or adds a field ({error}): it was edited by hand.") from error


def find_checkpoint(path: Path) -> Path:
    """The folder with the record: `path` itself, or where a run of a host keeps its newest one.

    Raises:
        AptError: no APT checkpoint there.
    """
    inner = ("", "pretrained_model", "checkpoints/last/pretrained_model", "assets", "stage2", "stage1")
    for name in inner:
        if (path / name / RECORD).is_file():
            return path / name
    for name in ("stage2", "stage1"):
        if (path / name).is_dir():
            return find_checkpoint(path / name)
    for _, step in sorted([*files.numbered(path), *files.numbered(path, "checkpoint-")], reverse=True):
        if any((step / name / RECORD).is_file() for name in inner[:4]):  # the newest that is whole
            return find_checkpoint(step)
    raise AptError(f"{path} is no APT checkpoint (no {RECORD} in it, nor in {', '.join(inner[1:4])}).")


def check_stage1(
    folder: Path,
    policy: str,
    recipe: Recipe,
    weights_file: str | None,
    facts: Mapping[str, object] | None = None,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Record:
    """Everything that must hold before Stage 2 is built on `folder`.

    Args:
        folder: the checkpoint that is to become the prior.
        policy: the model family that Stage 2 is to train.
        recipe: Stage 2's recipe.
        weights_file: name of the weights inside `folder`; None where the host stores them in a form of its own.
        facts, flags: Stage 2's settings that must be Stage 1's, see `agreement.check_agreement`.

    Raises:
        AptError: no Stage-1 result there, a foreign one, or one whose weights were truncated or changed.
    """
    if not (folder / RECORD).is_file():
        raise AptError(
            f"Stage 2 starts from a Stage-1 result, and {folder} is none (it has no {RECORD}). Train Stage 1 first "
            "(--apt.stage 1, or --apt.stage both), then name its checkpoint."
        )
    record = read_record(folder)
    if record.stage != PRIOR:
        raise AptError(
            f"{folder} is a Stage-{record.stage} result; Stage 2 starts from Stage 1. To go on training it, resume."
        )
    if record.policy != policy:
        raise AptError(f"{folder} holds the prior of a {record.policy!r} policy, not of {policy!r}: foreign Stage 1.")
    if record.recipe.prefix != recipe.prefix:
        raise AptError(
            f"The prior in {folder} was trained on a {record.recipe.prefix} prefix, Stage 2 asks for {recipe.prefix}: "
            f"its inputs would change at the switch. Write prefix={record.recipe.prefix}."
        )
    check_agreement(record.facts or {}, facts or {}, flags)
    if weights_file is not None:
        files.check_safetensors(folder / weights_file, record.weights)
    return record


def check_shared(missing: set[str], unexpected: set[str], shapes: Mapping[str, tuple], where: Path) -> None:
    """After loading: every shared tensor came from the checkpoint (contract 5).

    Copying only the blocks, as the published release does, halved what was learnt in a first trial.

    Args:
        missing: parameters of the model that the file lacks, ours left out.
        unexpected: tensors of the file that the model lacks.
        shapes: name -> (shape in the file, shape in the model) where they differ.
    """
    problems = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:4])}{', ...' if len(names) > 4 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", set(shapes)))
        if names
    ]
    if problems:
        raise AptError(
            f"{where} does not fit this model: {'; '.join(problems)}. It belongs to another policy type or other "
            "sizes; nothing was loaded."
        )


class NonFiniteError(AptError):
    """Training diverged."""


def check_finite(terms: Mapping[str, float], step: int) -> None:
    """Stop at the first non-finite loss term, before an optimiser step or a checkpoint can spread it.

    Raises:
        NonFiniteError: naming the step and the term.
    """
    for name, value in terms.items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"Step {step}: {name} is {value}. Training stops here; checkpoints already written are whole. Lower "
                "the learning rate, check the data's normalisation statistics, or resume from the last checkpoint."
            )
