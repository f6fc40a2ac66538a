"""`apt/retention` of a torch model: see `apt_plugin.retained`.

B samples of a batch   C features   L text tokens
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apt_plugin import retained
from apt_plugin.language import reworded

Batch = Mapping[str, Any]
Read = Callable[[Batch], np.ndarray]  # a batch -> what the expert reads of each sample, float32 [B, C]
Swap = Callable[[Batch, list[int]], Batch]  # -> what of a batch changes when samples get others' instructions


class Retained:
    """Retention of one model in its training process, against itself at its first step."""

    def __init__(self) -> None:
        self._kept: retained.Retained[Batch] = retained.Retained()

    def now(
        self, model: nn.Module, read: Read, batch: Batch, swap: Swap, instructions: Callable[[], Sequence[Hashable]],
        step: int,
    ) -> float | None:  # fmt: skip
        """See `retained.Retained.now`.

        Args:
            batch: of the model's training; only the first one is looked at. instructions: each sample's.
        """

        def asked(other: list[int]) -> tuple[Batch, Batch]:
            own = {name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in batch.items()}
            return own, {**own, **swap(own, other)}

        training = model.training
        model.eval()
        try:
            return self._kept.now(step, read, instructions, asked)
        finally:
            model.train(training)


def by_rows(*names: str) -> Swap:
    """Where a prompt is its instruction and nothing of the sample's own: `names` are its tensors, [B, ...]."""
    return lambda batch, other: {name: batch[name][other] for name in names if isinstance(batch.get(name), Tensor)}


def by_words(tokens: str, valid: str, instruction: str, position: str) -> Swap:
    """Where an arranged prompt holds the sample's state, too, which stays: the names of its tensors, [B, L]."""
    names = (tokens, valid, instruction, position)

    def swap(batch: Batch, other: list[int]) -> Batch:
        said = reworded(*(batch[name].cpu().numpy() for name in names), other=other)
        return {name: torch.from_numpy(part).to(batch[name]) for name, part in zip(names, said, strict=True)}

    return swap
