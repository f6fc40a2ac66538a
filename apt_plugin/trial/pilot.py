"""What a trial asks of a host: a training command as something that can be run briefly.

N episodes   C features
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Episodes:
    """The episodes that a command trains on.

    Args:
        labels: episode -> its instruction, "" where it has none.
        features: float [N, C], pixels of first frames; tasks: the instructions of those N episodes.
    """

    labels: Mapping[int, str]
    features: np.ndarray
    tasks: Sequence[str]


class Pilot(Protocol):
    """One training command. Nothing here starts a process; only `episodes` imports the host."""

    @property
    def steps(self) -> int:
        """The command's own."""
        ...

    @property
    def steps_flag(self) -> str:
        """What the host calls them, without dashes."""
        ...

    @property
    def expert_only(self) -> Mapping[str, str]:
        """The host's flags that freeze its VLM."""
        ...

    @property
    def asked_of(self) -> tuple[str, Mapping[str, Any]]:
        """The data set, and what else `Adapter.open_listener` opens it with."""
        ...

    def episodes(self) -> Episodes:
        """Read from the data set.

        Raises:
            AptError: it cannot be opened.
        """
        ...

    def whole(self, flags: Mapping[str, str]) -> list[str]:
        """The user's own command with these flags of the host set."""
        ...

    def short(
        self, flags: Mapping[str, str], ours: Sequence[str], run: Path, steps: int, episodes: Sequence[int], seed: int
    ) -> list[str]:
        """The same for `steps` steps on these episodes, into the folder `run`, with flags of ours behind it.

        Args:
            seed: 0 for the command's own, 1 for the next, and so on.

        Raises:
            AptError: a command of which no short run can be made.
        """
        ...

    def policy(self, run: Path) -> Path | None:
        """What a short run left, as `open_listener` takes it; None before there is something."""
        ...
