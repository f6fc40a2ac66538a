"""The device that somebody named: whether this machine has it, and how large it is; asked before a model is built."""

from __future__ import annotations

import torch

from apt_plugin.errors import AptError


def memory(device: str = "cuda") -> int | None:
    """Bytes of a CUDA device; None of any other, and where there is none."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(device).total_memory


def check(device: str, flag: str) -> None:
    """
    Args:
        device: as PyTorch names it: cpu, cuda, cuda:1, mps, ...; an empty one is the program's own choice.
        flag: what named it.

    Raises:
        AptError: no such device here, with those that there are.
    """
    kind, _, number = device.partition(":")
    backend = getattr(torch, kind, None) if kind in ("cuda", "xpu", "mps") else None
    if backend is None:
        return
    count = backend.device_count() if backend.is_available() else 0
    if count and (not number or (number.isdecimal() and int(number) < count)):
        return
    have = ", ".join(["cpu", *(f"{kind}:{place}" for place in range(count))])
    raise AptError(f"{flag} is {device!r}, and PyTorch finds no such device here, only {have}. Write one of these.")
