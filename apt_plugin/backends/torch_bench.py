"""One step's FLOPs, time and memory, on a CPU, a GPU, or (without time) on no device at all."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from apt_plugin.backends.torch_live import added, peak_of, standing
from apt_plugin.bench.rows import Made
from apt_plugin.bench.table import Row
from apt_plugin.errors import AptError
from apt_plugin.run.replace import replaced

logger = logging.getLogger(__name__)

Step = Callable[[], None]
FULL = "_ignore_bidirectional_mask_sdpa"  # of transformers: whether a mask is full


def flops(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure(row: Row, model: nn.Module, step: Step, device: str, rounds: int) -> Row:
    """Fill in a row; no round leaves time and memory out. Gradients are dropped between rounds, no optimizer steps."""

    def zeroed() -> None:
        step()
        model.zero_grad(set_to_none=True)

    row.flops = 0 if row.command else flops(zeroed)  # of a memory's row only bytes are asked
    row.standing, row.added = (standing(model), added(model)) if row.kind == "train" else ({}, 0)
    if device == "meta" and rounds:
        row.peak = peak_of(model, step)
        model.zero_grad(set_to_none=True)
    for _ in range(0 if device == "meta" else rounds):
        seconds, peak = (_on_gpu if device == "cuda" else _on_cpu)(step)
        model.zero_grad(set_to_none=True)
        row.seconds = min(row.seconds or seconds, seconds)
        row.peak = max(row.peak or 0.0, peak)
    return row


@contextlib.contextmanager
def without_values(device: str) -> Iterator[None]:
    """On meta a model cannot ask whether an image is padding, or a mask is full: none is, and it is."""
    import torch.fx.experimental._config as fx

    with contextlib.ExitStack() as stack:
        if device == "meta":
            from transformers import masking_utils

            stack.enter_context(replaced(fx, "meta_nonzero_assume_all_nonzero", True))
            if hasattr(masking_utils, FULL):
                stack.enter_context(replaced(masking_utils, FULL, lambda *_, **__: True))
        yield


def measured(
    rows: Iterable[tuple[Row, Callable[[], Made]]], device: str, rounds: int, only: Callable[[Row], bool]
) -> list[Row]:
    """`measure` the rows that `only` picks, one model in memory at a time."""
    out = []
    for row, make in rows:
        if only(row):
            with without_values(device):
                model, step = make()
                out.append(measure(row, model, step, device, rounds))
            told = f"{(row.total or 0) / 2**30:.3g} GiB" if row.command else f"{row.flops / 1e9:.3g} GFLOP"
            logger.info("%s: %s", row.name, told)
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
