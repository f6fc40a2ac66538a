"""Every field of the recipe with a value that somebody might choose, and what it means that a host applied it.

Knows no host. A host's test walks this table through its doors: a field arrives there and is seen to act, or is refused
in words. tests/core/test_fields_table.py fails where a field of the recipe is missing here.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from apt_plugin.recipe import Recipe, flatten, from_flat


@dataclass(frozen=True)
class Chosen:
    """A value for one field."""

    value: Any  # never the default
    means: str  # what is seen where it is applied
    beside: dict[str, Any] = field(default_factory=dict)  # fields without which nothing reads this one
    instead: dict[str, Any] = field(default_factory=dict)  # what it is compared with, where the host's command decides

    def recipe(self, name: str) -> Recipe:
        return from_flat({**self.beside, name: self.value})

    def without(self) -> Recipe:
        """The same recipe without the field: what an effect is compared with."""
        return from_flat(self.beside | self.instead)

    def flags(self, name: str) -> list[str]:
        """As a user writes it."""
        return [f"--apt.{key}={_written(value)}" for key, value in {**self.beside, name: self.value}.items()]


FIELDS = {
    "prefix": Chosen("native", "image tokens read the instruction in Stage 2", {"fusion.kind": "host"}),
    "drop_instruction": Chosen(False, "Stage 1's prefix is as long as with words"),
    "noise_draws": Chosen(3, "so many draws a sample"),
    "expert": Chosen("fresh", "the expert starts from other numbers than the checkpoint's"),
    "vlm": Chosen("full", "the VLM's parameters train in Stage 2", instead={"vlm": "frozen"}),
    "vlm_lr_scale": Chosen(0.2, "the VLM's learning rate", {"vlm": "full"}),
    "frozen_share": Chosen(0.4, "the VLM trains from a later step on", {"vlm": "full"}),
    "inherited": Chosen("freeze", "inherited layers do not train in Stage 2"),
    "inherited_lr_scale": Chosen(0.3, "the inherited layers' learning rate", {"inherited": "slow"}),
    "fusion_lr_scale": Chosen(0.7, "the fusion layers' learning rate"),
    "prior_loss": Chosen(0.5, "Stage 2's loss has a second term"),
    "freeze": Chosen(["state_encoder|state_proj|action_in_proj"], "parameters of that name do not train"),
    "fusion.kind": Chosen("host", "other parameters are added"),
    "fusion.every": Chosen(2, "half of the fusion layers"),
    "fusion.gate": Chosen("channel", "a gate value per channel"),
    "fusion.feed_forward": Chosen(True, "fusion layers have a feed-forward"),
    "fusion.taps": Chosen("spread", "fusion layers read several VLM layers"),
    "prior.goal": Chosen("state", "Stage 1's prompt holds where the demonstration ends"),
    "prior.goal_at": Chosen("episode", "that is the end of the episode", {"prior.goal": "state"}),
    "prior.goal_share": Chosen(0.25, "that share of the samples has a goal", {"prior.goal": "state"}),
    "mix.repo_id": Chosen("someone/play", "unlabelled data are read", {"mix.share": 0.25}),
    "mix.root": Chosen("play", "unlabelled data are read", {"mix.share": 0.25}),
    "mix.share": Chosen(0.25, "that share of the frames is unlabelled", {"mix.root": "play"}),
    "norm_stats": Chosen("data", "Stage 2 normalises by its own data's statistics"),
    "cache": Chosen("features", "features are read from that folder"),
    "cache_kind": Chosen("kv", "what is stored per frame", {"cache": "features"}),
    "cache_views": Chosen(2, "so many augmented views of a frame are stored", {"cache": "features"}),
    "guidance_scale": Chosen(3.0, "other actions"),
    "gap_every": Chosen(7, "the blanked loss is taken at those steps"),
}

# What every policy but lerobot's pi05 refuses, and what it says.
NO_GOALS = dict.fromkeys(("prior.goal", "prior.goal_at", "prior.goal_share"), "so far lerobot's pi05 alone")
# What a program that acts may choose anew; every other field is refused there, since the checkpoint settles it.
ACTING = ("guidance_scale",)


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Dotted name -> value."""
    return flatten(dataclasses.asdict(recipe))


def _written(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | bool) else str(value)
