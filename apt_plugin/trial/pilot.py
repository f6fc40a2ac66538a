"""What a trial asks of a host: a training command as something that can be run briefly.

N episodes   C features   H, W height and width of a picture
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from apt_plugin.launch import split
from apt_plugin.run.budget import count, scaled

FIRST_FRAMES = 512  # episodes at most whose first frames say whether the data need language


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


def seen(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Every eighth pixel of all cameras [C], of pictures [..., H, W]: what tells one scene from another."""
    return np.concatenate([picture[..., ::8, ::8].reshape(-1) for picture in pictures]).astype(np.float32)


def shortened(ours: Sequence[str], host: str, names: Sequence[str], steps: int, total: int) -> list[str]:
    """Flags that shrink what somebody wrote for one stage (`--apt.stage1.<name>`), as the whole does.

    Args:
        names: of the host's lengths in steps, that of the whole run first. steps, total: of the short run, and of the
            command.
    """
    known = {name.replace("-", "_") for name in names}
    out = []
    for stage, own in split(ours, host).stage_flags.items():
        for name, value in own.items():
            if name.replace("-", "_") not in known:
                continue
            written = count(f"apt.stage{stage}.{name}", value)
            short = scaled(written, steps, total)
            if name == names[0] and written < total:  # rounded, a stage must not take the other's last step
                short = min(short, max(1, steps - 1))
            out.append(f"--apt.stage{stage}.{name}={short}")
    return out


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
        """The host's flags that freeze its VLM; not asked where its adapter says that it has none."""
        ...

    @property
    def asked_of(self) -> tuple[str, Mapping[str, Any]]:
        """The data set, and what else `Adapter.open_listener` opens it with."""
        ...

    @property
    def base(self) -> str:
        """The checkpoint that training starts from, as `open_base` takes it; "" where none is named."""
        ...

    def episodes(self) -> Episodes:
        """Read from the data set.

        Raises:
            AptError: it cannot be opened.
        """
        ...

    def only(self, episodes: Sequence[int], folder: Path) -> Mapping[str, str]:
        """The host's flags by which it trains on these episodes alone; what that takes on the disk goes to `folder`.

        Raises:
            AptError: they cannot be left out.
        """
        ...

    def whole(self, flags: Mapping[str, str]) -> list[str]:
        """The user's own command with these flags of the host set."""
        ...

    def short(
        self, flags: Mapping[str, str], ours: Sequence[str], run: Path, steps: int, seed: int, points: int
    ) -> list[str]:
        """The same for `steps` steps, into the folder `run`, with flags of ours behind it.

        Args:
            seed: 0 for the command's own, 1 for the next, and so on. points: checkpoints that it leaves, at equal
                distances.

        Raises:
            AptError: a command of which no short run can be made.
        """
        ...

    def policies(self, run: Path) -> list[tuple[int, Path]]:
        """(step of the last stage, as the host counts; checkpoint, as `open_listener` takes it) of what a short run
        left, oldest first."""
        ...
