"""What a host tells of a policy and its data, so that the cheap causes can be ruled out before any verdict.

    B (frame, instruction) pairs   F frames   C features

Whoever cannot tell a fact leaves the answer of `Evidence`: None, which the page calls "not known".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """One tensor of the policy in numbers; `low`, `high`, `std` are over its finite values."""

    name: str
    vlm: bool  # the VLM's, by the policy family's own rule
    shape: tuple[int, ...]
    low: float
    high: float
    std: float
    finite: bool = True

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def constant(self) -> bool:
        """One value throughout."""
        return self.low == self.high


@dataclass(frozen=True)
class Arrived:
    """What the model gets of one prompt.

    Args:
        tokens: its valid ids; text: what they say, "" where nobody can decode them.
        limit: how many tokens the policy's own processor lets through, None where it has no limit.
    """

    tokens: tuple[int, ...]
    text: str
    limit: int | None = None

    @property
    def full(self) -> bool:
        return self.limit is not None and len(self.tokens) >= self.limit


class Base(Protocol):
    """The VLM of a base checkpoint, beside the policy's."""

    def digest(self) -> str:
        """As the listener's own `digest`."""
        ...

    def distance(self) -> float:
        """How far the policy's VLM is from it: norm of the difference over the base's own norm."""
        ...

    def inside(self) -> AbstractContextManager[None]:
        """While active, the policy reads with the base's VLM in place of its own."""
        ...


class Evidence:
    """Facts about one opened policy on its data; a host overrides what it knows.

    `room`: the host's flag for how many tokens a prompt may have, "" where nothing bounds it.
    """

    room: str = ""

    def tensors(self) -> Iterable[Tensor] | None:
        """Every parameter of the policy, as loaded."""
        return None

    def arrived(self, frames: Sequence[int], texts: Sequence[str]) -> list[Arrived] | None:
        """The prompts of B pairs, through the policy's own processors with their own limits.

        Raises:
            AptError: a prompt that the processors refuse.
        """
        return None

    def labels(self) -> Sequence[str] | None:
        """The instruction of every episode of the data set, "" where it has none."""
        return None

    def state(self) -> np.ndarray | None:
        """The robot's state of all frames as the model reads it, float [F, S]."""
        return None

    def read(self, frames: Sequence[int], texts: Sequence[str]) -> np.ndarray | None:
        """What the action expert reads of B prefixes, pooled over their valid tokens: float32 [B, C]."""
        return None
