"""What decides a grounded VLM: one per setting and VLM seed, kept on disk and shared by every arm."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from apt_compare.spec import Setting, digest
from apt_plugin.errors import AptError, did_you_mean
from apt_plugin.tabletop.grounding import Grounding
from apt_plugin.tabletop.world import World

DONE = "grounding.json"  # written last


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


def grounding_of(setting: Setting, vlm_seed: int) -> Grounding:
    return build(Grounding, {**setting.grounding, "seed": vlm_seed}, f"setting {setting.name}, grounding")


def base_key(setting: Setting, vlm_seed: int, sizes: dict[str, Any]) -> str:
    """Every knob of world, grounding and sizes counts, defaults included: a changed default is another VLM."""
    how = dataclasses.asdict(grounding_of(setting, vlm_seed))
    return digest([dataclasses.asdict(lesson_world(setting)), how, sizes, setting.body])
