"""One step's FLOPs, time and memory, on a CPU, a GPU, or (without time) on no device at all."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from apt_plugin.backends.torch_live import peak_of, standing
from apt_plugin.bench.rows import Made
from apt_plugin.bench.table import Row
from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)

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


def measured(
    rows: Iterable[tuple[Row, Callable[[], Made]]], device: str, rounds: int, only: Callable[[Row], bool]
) -> list[Row]:
    """`measure` the rows that `only` picks, one model in memory at a time."""
    out = []
    for row, make in rows:
        if only(row):
            model, step = make()
            out.append(measure(row, model, step, device, rounds))
            logger.info("%s: %.3g GFLOP", row.name, row.flops / 1e9)
            del model, step
            gc.collect()
    return out


def settle(device: str) -> None:
    """Make this process fit for figures: one thread, and freed memory that leaves it, for which it starts anew.

    Raises:
        AptError: cuda without a GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise AptError(
            "device is 'cuda', and no GPU is at hand. Write cpu, or meta: counted FLOPs and bytes, no times."
        )
    if device == "cpu" and os.environ.get("MALLOC_MMAP_THRESHOLD_") is None:
        # Freed memory must leave the process, or peaks hide in it.
        os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        os.execv(sys.executable, [sys.executable, "-m", "apt_plugin", *sys.argv[1:]])
    if device == "cpu":
        torch.set_num_threads(1)


def facts_of(device: str) -> dict[str, Any]:
    """What stands beside the figures: device, torch's version, threads, the GPU's name."""
    facts: dict[str, Any] = {"device": device, "torch": torch.__version__, "threads": torch.get_num_threads()}
    return facts | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


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
