"""The processes of one training, as torch has started them: which writes, and where they wait for each other.

Read off the group that is there: accelerate's own state would start one, and before the host has said on which device.
"""

from __future__ import annotations

from torch import distributed


def writes() -> bool:
    """Whether this process is the one that writes files: the first, or the only one."""
    return not _many() or distributed.get_rank() == 0


def meet() -> None:
    """Wait until every process is here."""
    if _many():
        distributed.barrier()


def _many() -> bool:
    return distributed.is_available() and distributed.is_initialized()
