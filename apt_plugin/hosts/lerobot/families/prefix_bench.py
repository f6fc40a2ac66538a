"""What the benches of policies with a prefix share: features, a recipe's policy, made-up inputs, the rows.

    B batch   K noise draws   T action tokens   L prompt tokens

Configs, models and what one step is differ by family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from lerobot.configs import FeatureType, PolicyFeature

from apt_plugin.bench import Row, memory
from apt_plugin.bench.memory import OwnCommand
from apt_plugin.bench.rows import Made, rows_of
from apt_plugin.hosts.lerobot.flow import PromptBatch
from apt_plugin.recipe import Recipe

WIDTH = 32  # of padded states and actions


class Fed(Protocol):
    """What a model is fed."""

    @property
    def side(self) -> int: ...  # pixels of a camera
    @property
    def cameras(self) -> int: ...
    @property
    def text(self) -> int: ...  # L: tokens of the prompt, padding left out
    @property
    def spoken(self) -> int: ...  # of them the instruction
    @property
    def chunk(self) -> int: ...  # T
    @property
    def batch(self) -> int: ...


class PrefixBench(ABC):
    """Makes one row's model at a time, so that only one is in memory."""

    size: Any  # a `Fed`, and the model's own sizes
    device: str

    @abstractmethod
    def ours(self, stage: int, recipe: Recipe) -> Any:
        """A policy of the recipe's, of random weights, in training mode."""

    @abstractmethod
    def stock(self, everything: bool) -> Made:
        """A training step of the host's own; everything: the VLM trains, too."""

    @abstractmethod
    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen") -> Made:
        """A training step of ours; sets the floor of `row`."""

    @abstractmethod
    def acting(self, scale: float | None) -> Made:
        """An action chunk of the host's own (None), or of a Stage 2 under guidance."""

    def features(self) -> dict[str, Any]:
        s: Fed = self.size
        shape = (3, s.side, s.side)
        cameras = {f"observation.images.{n}": PolicyFeature(FeatureType.VISUAL, shape) for n in "abcdef"[: s.cameras]}
        return {
            "input_features": {**cameras, "observation.state": PolicyFeature(FeatureType.STATE, (8,))},
            "output_features": {"action": PolicyFeature(FeatureType.ACTION, (7,))},
        }

    def apt(self, stage: int = 1, **recipe: Any) -> Any:
        # No trimming by what the tokens are: on the meta device they are nothing. Stage 1 is given kept tokens only.
        return self.ours(stage, Recipe(**{"drop_instruction": False, "gap_every": 0, "vlm": "frozen", **recipe}))

    def inputs(self, instruction: bool) -> tuple[list, list, PromptBatch, torch.Tensor]:
        """Images and masks per camera, the prompt [B, L], actions [B, T, A]."""
        s: Fed = self.size
        with torch.device(self.device):
            images = [torch.rand(s.batch, 3, s.side, s.side) for _ in range(s.cameras)]
            masks = [torch.ones(s.batch, dtype=torch.bool)] * s.cameras
            length = s.text if instruction else s.text - s.spoken
            place = torch.arange(length).expand(s.batch, length)
            prompt = PromptBatch(
                torch.ones_like(place), torch.ones_like(place, dtype=torch.bool), place >= s.text - s.spoken, place
            )
            return images, masks, prompt, torch.rand(s.batch, s.chunk, WIDTH)

    def noise(self, draws: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        s, lead = self.size, () if draws is None else (draws,)
        with torch.device(self.device):
            return torch.randn(s.batch, *lead, s.chunk, WIDTH), torch.rand(s.batch, *lead)

    def state(self) -> torch.Tensor | None:
        """[B, 32], where a token of the model's own carries it."""
        with torch.device(self.device):
            return torch.rand(self.size.batch, WIDTH)

    def memory_rows(self) -> Iterator[tuple[Row, Callable[[], Made]]]:
        """See `bench.memory`: with the VLM trained, and without."""
        commands = (
            OwnCommand("everything trained", lambda: self.stock(True), "full"),
            OwnCommand("train_expert_only", lambda: self.stock(False), "frozen"),
        )
        return memory.rows_of(commands, self.stage, self.size.batch)

    def rows(self) -> Iterator[tuple[Row, Callable[[], Made]]]:
        """See `bench.rows`."""
        return rows_of(self, self.size.batch, "train_expert_only")
