"""Whether the policy that is asked is the checkpoint that was named: a host may swallow a loading error and go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apt_plugin.errors import AptError


class NotLoadedError(AptError):
    """A host that left tensors of the checkpoint out, with their names."""

    def __init__(self, text: str, lost: Sequence[str], total: int, where: str):
        super().__init__(text)
        self.lost, self.total, self.where = lost, total, where


def check_loaded(lost: Sequence[str], total: int, where: str | Path) -> None:
    """Refuse to judge a policy that was not loaded.

    Args:
        lost: tensors of the model that do not hold what the checkpoint does; total: how many the model has.

    Raises:
        NotLoadedError: any is lost.
    """
    if lost:
        some = ", ".join(sorted(lost)[:3]) + (", ..." if len(lost) > 3 else "")
        raise NotLoadedError(
            f"{len(lost)} of {total} tensors of this checkpoint were not loaded: what follows would be about random "
            f"weights. They are {some}; the checkpoint is {where}. The host's own warning above says why. Name a "
            "checkpoint of this policy type and of this version of the host.",
            lost,
            total,
            str(where),
        )
