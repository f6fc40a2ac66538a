"""Where every run starts: a grounded VLM (one per setting and VLM seed, kept on disk) and an expert of its own seed."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from apt_plugin.compare.spec import Setting, digest
from apt_plugin.errors import AptError, did_you_mean
from apt_plugin.files import read_json, write_json
from apt_plugin.hosts.lerobot.groups import part_of
from apt_plugin.hosts.lerobot.names import WEIGHTS
from apt_plugin.tabletop import checkpoint, grounding
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.grounding import Grounding
from apt_plugin.tabletop.world import World

DONE = "grounding.json"  # `ground` writes it last


def build(cls: Any, values: Any, what: str) -> Any:
    """A World or a Grounding from a setting's fields.

    Raises:
        AptError: an unknown field.
    """
    known = inspect.signature(cls).parameters
    for name in values:
        if name not in known:
            raise AptError(f"{what}: unknown field {name!r}.{did_you_mean(name, known)}")
    return cls(**values)


def world_of(setting: Setting) -> World:
    return build(World, setting.world, f"setting {setting.name}, world")


def lesson_world(setting: Setting) -> World:
    """The world as the VLM's lessons know it: settings that differ in what demonstrations name share their VLMs."""
    defaults = World()
    told = ("usual_share", "fixed_layouts", "chained")
    return dataclasses.replace(world_of(setting), **{name: getattr(defaults, name) for name in told})


def base_key(setting: Setting, vlm_seed: int) -> str:
    """Every knob of world, grounding and sizes counts, defaults included: a changed default is another VLM."""
    how = build(Grounding, setting.grounding, f"setting {setting.name}, grounding")
    sizes = {**grounding.SIZES, **setting.sizes}
    return digest([dataclasses.asdict(lesson_world(setting)), dataclasses.asdict(how), sizes, vlm_seed])


def ground(setting: Setting, vlm_seed: int, folder: Path) -> dict[str, Any]:
    """Ground the VLM of a setting unless `folder` has it; returns the grounding's report."""
    if not (folder / DONE).is_file():
        how = build(Grounding, {**setting.grounding, "seed": vlm_seed}, setting.name)
        grounding.ground(folder, lesson_world(setting), how, {**grounding.SIZES, **setting.sizes}, progress=False)
    return read_json(folder / DONE)


def start(setting: Setting, base: Path, seed: int, folder: Path) -> Path:
    """A stock checkpoint: the VLM of `base`, an expert drawn from `seed`. Both kinds of policies load it."""
    config = read_json(base / "config.json")
    policy = checkpoint.build(config["sizes"], base / "tokenizer", config["tokenizer_max_length"], seed)
    stored = load_file(base / WEIGHTS)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if part_of(name) == "vlm":
                parameter.copy_(stored[name])
    checkpoint.save(policy, folder, reference_stats(world_of(setting)))
    # Shared first stages outlive this folder, and their processors name the tokenizer by its path.
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "tokenizer_name": str(base / "tokenizer")})
    return folder
