"""A warm-up in a PyTorch trainer: the VLM's parameters ask for no gradient until their steps come.

The optimizer knows them from the start, and skips what has no gradient: they do not move, and have no moments yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from torch import nn

from apt_plugin.recipe import Recipe
from apt_plugin.run import warmup

logger = logging.getLogger(__name__)


class Warmup:
    """One training process.

    Args:
        share: of the steps, in (0, 1); flag: the host's, of their number; how: what makes its command train the VLM.
    """

    def __init__(self, share: float, flag: str, how: str):
        self.share, self.flag, self.how = share, flag, how
        self.frozen = self.total = 0
        self.vlm: list[nn.Parameter] = []  # what of it the command trains

    def begins(self, total: int) -> None:
        """
        Raises:
            AptError: too few steps.
        """
        self.total, self.frozen = total, warmup.frozen_steps(self.share, total, self.flag)

    def finds(self, named: Iterable[tuple[str, nn.Parameter]], in_vlm: Callable[[str], bool]) -> None:
        """
        Raises:
            AptError: the command trains nothing of the VLM.
        """
        self.vlm = [parameter for name, parameter in named if in_vlm(name) and parameter.requires_grad]
        if not self.vlm:
            raise warmup.nothing_trains(self.how)

    def of_stage(
        self, recipe: Recipe, vlm: str, total: int, named: Iterable[tuple[str, nn.Parameter]],
        in_vlm: Callable[[str], bool],
    ) -> bool:  # fmt: skip
        """Whether a stage of so many steps has one, by its recipe; then it is this.

        Args:
            vlm: frozen, lora or full, what the stage does with it.
        """
        self.total, self.frozen = total, warmup.in_stage(recipe, vlm, total)
        if self.frozen:
            self.finds(named, in_vlm)
        return bool(self.frozen)

    def before(self, step: int) -> None:
        """Called before each step, with its number from 0. Nothing happens where nobody said what trains."""
        trains = step >= self.frozen
        if self.vlm and self.vlm[0].requires_grad != trains:
            for parameter in self.vlm:
                parameter.requires_grad_(trains)
            logger.info(warmup.told(step, self.frozen, self.total))
