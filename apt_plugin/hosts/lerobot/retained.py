"""`apt/retention` while the VLM trains: does it still tell instructions apart as it did when the stage began?

The instructions of the first batch are kept, and what the VLM made of them then. Nothing of the base is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from apt_plugin.hosts.lerobot import families
from apt_plugin.listen.causes.retention import kept


class Retained:
    """Retention of one policy against itself at the time when this was made.

    Args:
        policy: one of ours, in its training process; batch: a processed batch of B samples with their `task`.
    """

    def __init__(self, policy: Any, batch: Mapping[str, Any]):
        self._listening = families.of(policy.config.type).listening()
        other = neighbours([str(task) for task in batch.get("task") or ()])
        self._rows = [row for row, at in enumerate(other) if at != row]
        if not self._rows:
            return
        own = {name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in batch.items()}
        prompts = {name: own[name][other] for name in self._listening.prompts if isinstance(own.get(name), Tensor)}
        self._asked = own, {**own, **prompts}
        self._then = self._moved(policy)

    def now(self, policy: Any) -> float | None:
        """Mean cosine, 1 when nothing has changed; None where the batch had one instruction only."""
        return kept(self._moved(policy), self._then) if self._rows else None

    def _moved(self, policy: Any) -> np.ndarray:
        """How far another instruction moves what the expert reads of a sample: [samples, C]."""
        training = policy.training
        policy.eval()
        try:
            own, other = (self._listening.context(policy, batch).read() for batch in self._asked)
        finally:
            policy.train(training)
        return (other - own)[self._rows]


def neighbours(tasks: Sequence[str]) -> list[int]:
    """For each sample the next one, in a ring, that has another instruction; itself where none has."""
    count = len(tasks)
    return [
        next((at for step in range(1, count) if tasks[at := (row + step) % count] != tasks[row]), row)
        for row in range(count)
    ]
