"""`apt/retention` while the VLM trains: does it still tell instructions apart as it did when the stage began?

    B samples of a batch   C features

The instructions of the first batch are kept, and what the VLM made of them then. Nothing of the base is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from apt_plugin.listen.causes.retention import kept

Read = Callable[[Mapping[str, Any]], np.ndarray]  # a batch -> what the expert reads of each sample, float32 [B, C]


class Retained:
    """Retention of one model in its training process, against itself at its first step."""

    def __init__(self) -> None:
        self._rows: list[int] | None = None

    def now(
        self, model: nn.Module, read: Read, batch: Mapping[str, Any], prompts: Sequence[str],
        instructions: Sequence[Hashable], step: int,
    ) -> float | None:  # fmt: skip
        """Mean cosine, 1 when nothing has changed. None where the batch has one instruction only, and behind a resume:
        what the VLM said when the stage began was not kept.

        Args:
            batch: of the model's training; only the first one is looked at. prompts: its tensors [B, ...] that the
            instructions decide. instructions: each sample's.
        """
        if self._rows is None:
            if step:
                return None
            self._keep(model, read, batch, prompts, instructions)
        return kept(self._moved(model, read), self._then) if self._rows else None

    def _keep(
        self, model: nn.Module, read: Read, batch: Mapping[str, Any], prompts: Sequence[str], said: Sequence[Hashable]
    ) -> None:
        other = neighbours(said)
        self._rows = [row for row, at in enumerate(other) if at != row]
        if self._rows:
            own = {name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in batch.items()}
            swapped = {name: own[name][other] for name in prompts if isinstance(own.get(name), Tensor)}
            self._asked = own, {**own, **swapped}
            self._then = self._moved(model, read)

    def _moved(self, model: nn.Module, read: Read) -> np.ndarray:
        """How far another instruction moves what the expert reads of a sample: [samples, C]."""
        training = model.training
        model.eval()
        try:
            own, other = (read(batch) for batch in self._asked)
        finally:
            model.train(training)
        return (other - own)[self._rows]


def neighbours(instructions: Sequence[Hashable]) -> list[int]:
    """For each sample the next one, in a ring, that has another instruction; itself where none has."""
    count = len(instructions)
    return [
        next((at for step in range(1, count) if instructions[at := (row + step) % count] != instructions[row]), row)
        for row in range(count)
    ]
