"""`apt/retention` while the VLM trains: does it still tell instructions apart as it did when the stage began?

    N samples that are asked   C features

The instructions of the first batch are kept, and what the VLM made of them then. Nothing of the base is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np

from apt_plugin.listen.causes.retention import kept

Asked = TypeVar("Asked")  # a batch, as the framework has it


class Retained(Generic[Asked]):
    """Retention of one model in its training process, against itself at its first step."""

    def __init__(self) -> None:
        self._rows: list[int] | None = None

    def now(
        self, step: int, read: Callable[[Asked], np.ndarray], instructions: Callable[[], Sequence[Hashable]],
        asked: Callable[[list[int]], tuple[Asked, Asked]],
    ) -> float | None:  # fmt: skip
        """Mean cosine, 1 when nothing has changed. None where the batch has one instruction only, and behind a resume:
        what the VLM said when the stage began was not kept.

        Args:
            read: a batch -> what the expert reads of each sample now, float32 [B, C].
            instructions: of the first batch's samples. asked: for each sample one with another instruction (itself
            where there is none) -> the first batch, and the same with those instructions.
        """
        if self._rows is None:
            if step:
                return None
            other = neighbours(instructions())
            self._rows = [row for row, at in enumerate(other) if at != row]
            if self._rows:
                self._asked = asked(other)
                self._then = self._moved(read)
        return kept(self._moved(read), self._then) if self._rows else None

    def _moved(self, read: Callable[[Asked], np.ndarray]) -> np.ndarray:
        """How far another instruction moves what the expert reads of a sample: [N, C]."""
        own, other = (read(batch) for batch in self._asked)
        return (other - own)[self._rows]


def neighbours(instructions: Sequence[Hashable]) -> list[int]:
    """For each sample the next one, in a ring, that has another instruction; itself where none has."""
    count = len(instructions)
    return [
        next((at for step in range(1, count) if instructions[at := (row + step) % count] != instructions[row]), row)
        for row in range(count)
    ]
