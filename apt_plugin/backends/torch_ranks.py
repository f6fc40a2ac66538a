"""The processes of one training, as torch has started them: which writes, and where they wait for each other.

Read off the group that is there: accelerate's own state would start one, and before the host has said on which device.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping

import torch
from torch import distributed

_kept: list[object] = []


def writes() -> bool:
    """Whether this process is the one that writes files: the first, or the only one."""
    return rank() == 0


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if _many() else 0


def started() -> int:
    """How many processes torchrun started, before there is a group too."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def meet() -> None:
    """Wait until every process is here."""
    if _many():
        distributed.barrier()


def mean(scalars: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
    """Over all processes: of the whole batch, not of this one's part; and if one must stop, all do.

    Args:
        scalars: name -> a number, or a tensor of shape ().

    Returns:
        Means, summed in float64.
    """
    device = "cuda" if _many() and distributed.get_backend() == "nccl" else "cpu"
    values = torch.tensor([float(value) for value in scalars.values()], dtype=torch.float64, device=device)
    if _many():
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return dict(zip(scalars, values.tolist(), strict=True))


def keep_group() -> None:
    """Hold the group of this training until the host's script has returned; call it where the group exists.

    Without this the reducer of a DDP model may be the last to hold a gloo group. It drops it with the GIL held, joins
    the group's thread, and that thread waits for the GIL to free a tensor: a training that is over hangs for good
    (pytorch #56297; seen once in eight runs of two processes).
    """
    if _many() and distributed.group.WORLD not in _kept:
        _kept.append(distributed.group.WORLD)


def let_go() -> None:
    """Drop what `keep_group` holds: its own destructor gives the GIL away. A next group would meet its store."""
    _kept.clear()


atexit.register(let_go)


def end_group() -> None:
    """Where a process ends before the host's own end."""
    if _many():
        distributed.destroy_process_group()


def _many() -> bool:
    return distributed.is_available() and distributed.is_initialized()
