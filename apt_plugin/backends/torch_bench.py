"""One step's FLOPs, time and memory, on a CPU, a GPU, or (without time) on no device at all."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from apt_plugin.backends.torch_live import peak_of, standing
from apt_plugin.bench.table import Row

Step = Callable[[], None]


def flops(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure(row: Row, model: nn.Module, step: Step, device: str, rounds: int) -> Row:
    """Fill in a row; no round leaves time and memory out. Gradients are dropped between rounds, no optimizer steps."""

    def zeroed() -> None:
        step()
        model.zero_grad(set_to_none=True)

    row.flops = flops(zeroed)
    row.standing = standing(model) if row.kind == "train" else {}
    if device == "meta" and rounds:
        row.peak = peak_of(model, step)
        model.zero_grad(set_to_none=True)
    for _ in range(0 if device == "meta" else rounds):
        seconds, peak = (_on_gpu if device == "cuda" else _on_cpu)(step)
        model.zero_grad(set_to_none=True)
        row.seconds = min(row.seconds or seconds, seconds)
        row.peak = max(row.peak or 0.0, peak)
    return row


def _on_gpu(step: Step) -> tuple[float, float]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, began = torch.cuda.memory_allocated(), time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - began, torch.cuda.max_memory_allocated() - before


def _on_cpu(step: Step) -> tuple[float, float]:
    """CPU seconds of the process, which a busy machine moves less than the clock's; resident bytes at the peak."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, began = resident("VmRSS"), time.process_time()
    step()
    return time.process_time() - began, resident("VmHWM") - before


def resident(name: str) -> float:
    """Bytes from /proc/self/status: VmRSS now, VmHWM at its peak."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
