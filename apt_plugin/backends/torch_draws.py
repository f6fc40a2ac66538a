"""Noise and time of flow matching, keyed by frame and step instead of by a global stream.

    B batch   K noise draws   T action tokens   A action dimensions

The loss of a batch then does not depend on how many processes share it, nor on a resumed random state, and an
evaluation draws the same in both stages. Batches of openpi and GR00T carry no frame number, so the normalised action
chunk is the key: it goes with the frame wherever a shard, a process or a restart puts it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def seeded() -> Iterator[None]:
    """New parameters start from the run's seed alone, whatever was built (or, from a cache, not built) before them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed())
        yield


def draw(
    sample_time: Callable[[int], Tensor], actions: Tensor, draws: int, step: int, index: Any = None
) -> tuple[Tensor, Tensor]:
    """The host's noise and time distributions, seeded per (frame, step).

    Args:
        sample_time: n -> [n] float32 on the CPU, the host's own distribution.
        actions: [B, T, A]; step: optimiser step, -1 in evaluation.
        index: [B] or [B, 1] numbers of the frames in their data set, where a host has them.

    Returns:
        noise [B, K, T, A] and time [B, K], float32 on the device of `actions`.
    """
    noises, times = [], []
    with torch.random.fork_rng(devices=[]):
        for seed in _seeds(actions, step, index):
            torch.manual_seed(seed)
            noises.append(torch.randn(draws, *actions.shape[1:]))
            times.append(sample_time(draws).float())
    return torch.stack(noises).to(actions.device), torch.stack(times).to(actions.device)


def chosen(share: float, actions: Tensor, step: int, index: Any = None) -> Tensor:
    """Which samples are among a share of all, drawn anew at each step, arguments as in `draw`: bool [B]."""
    picked = [seed < share * 2**63 for seed in _seeds(actions, step, index, b"chosen")]
    return torch.tensor(picked, device=actions.device)


def _seeds(actions: Tensor, step: int, index: Any, what: bytes = b"") -> list[int]:
    """A number below 2^63 per sample."""
    if isinstance(index, Tensor) and index.numel() == actions.shape[0]:
        keys = [int(frame).to_bytes(8, "little", signed=True) for frame in index.reshape(-1).tolist()]
    else:
        keys = [chunk.numpy().tobytes() for chunk in actions.detach().float().cpu()]
    place = step.to_bytes(8, "little", signed=True) + what
    return [int.from_bytes(hashlib.blake2b(key + place, digest_size=8).digest(), "little") >> 1 for key in keys]
