"""What gives a policy's weights their meaning in openpi: the facts of a checkpoint's record, see `agreement`.

`model.*` and `data.*` are named as the host's flags name them; the rest follows from the config's name.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openpi.transforms as transforms
from flax import traverse_util

from apt_plugin.agreement import plain

MODEL = ("action_horizon", "action_dim", "max_token_len", "discrete_state_input", "action_expert_variant")
CAMERAS = "cameras"


def facts_of(model: Any, factory: Any, assets: str | Path) -> dict[str, Any]:
    """The facts of a stage.

    Args:
        model: its model config. factory: the data factory of the stock config. assets: where that finds statistics.
    """
    data = factory.create(Path(assets), model)
    facts: dict[str, Any] = {f"model.{name}": getattr(model, name) for name in MODEL}
    facts["model.paligemma_variant"] = model.paligemma_variant.removesuffix("_lora")  # LoRA is the recipe's to choose
    facts |= {f"data.{name}": value for name, value in settings(factory).items()}
    return plain(
        {
            **facts,
            CAMERAS: _cameras(data.repack_transforms.inputs),
            "data transforms": [_told(step) for step in data.data_transforms.inputs],
            "normalisation": "quantiles" if data.use_quantile_norm else "mean and standard deviation",
        }
    )


def settings(factory: Any) -> dict[str, Any]:
    """Fields of a data factory that say how numbers are read. Its strings say where data lie, or are prompts."""
    values = {field.name: getattr(factory, field.name) for field in dataclasses.fields(factory)}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | enum.Enum)}


def flags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Fact -> openpi's flag; a switch as `--on|--off`."""
    out = {}
    for name, value in facts.items():
        head, dot, last = name.replace("_", "-").partition(".")
        if dot:
            on = f"--{head}.{last}"
            out[name] = f"{on}|--{head}.no-{last}" if isinstance(value, bool) else on
    return out


def comparable(stage1: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Stage 1's facts, with the columns of its cameras named as they are now where it read a data set of other columns.

    The same columns in other places are another order of cameras, and stay.
    """
    before, found = stage1.get(CAMERAS), now.get(CAMERAS)
    if not before or not found or set(before.values()) == set(found.values()):
        return dict(stage1)
    return {**stage1, CAMERAS: {name: found.get(name, column) for name, column in before.items()}}


def _cameras(repack: Any) -> dict[str, str]:
    """What the robot's transforms call an image -> the data set's column."""
    found: dict[str, str] = {}
    for step in repack:
        if isinstance(step, transforms.RepackTransform):
            columns = traverse_util.flatten_dict(dict(step.structure), sep="/")
            found |= {name: str(column) for name, column in columns.items() if "image" in name or "cam" in name}
    return found


def _told(step: Any) -> str:
    """A transform in words: its class and what of its fields is plain."""
    values = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)} if dataclasses.is_dataclass(step) else {}
    simple = {n: v for n, v in values.items() if isinstance(v, bool | int | float | str | enum.Enum | tuple | None)}
    return f"{type(step).__name__} {plain(simple)}" if simple else type(step).__name__
