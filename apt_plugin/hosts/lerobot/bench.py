"""`apt-plugin bench` in lerobot: one table per model family, all rows in one run."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from apt_plugin.backends.torch_bench import measure
from apt_plugin.bench import Row, table, write
from apt_plugin.errors import AptError, choose

FAMILIES = ("pi05", "pi0", "groot")
DEVICES = ("cpu", "cuda", "meta")


def rows_of(
    family: str, size: str, device: str, rounds: int, batch: int | None = None, checkpointing: bool = False,
    only: Callable[[Row], bool] = lambda row: True,
) -> list[Row]:  # fmt: skip
    """Measure the rows of one family.

    Raises:
        AptError: unknown family, size or device; GR00T on the meta device (its VLM asks values of its inputs).
    """
    choose("family", family, FAMILIES)
    choose("device", device, DEVICES)
    bench: Any
    if family == "groot":
        from apt_plugin.hosts.lerobot import bench_groot as module

        bench = module.Bench(module.smaller(module.SIZES[choose("size", size, module.SIZES)], batch), device)
    else:
        from apt_plugin.hosts.lerobot import bench_pi as module

        chosen = module.smaller(module.SIZES[choose("size", size, module.SIZES)], batch)
        bench = module.Bench(family, chosen, device, checkpointing)
    out = []
    for row, make in bench.rows():
        if only(row):
            model, step = make()
            out.append(measure(row, model, step, device, rounds))
            logging.info("%s: %.3g GFLOP", row.name, row.flops / 1e9)
            del model, step
            gc.collect()
    return out


def run(family: str, size: str, device: str, rounds: int, batch: int | None, json: Path | None, plain: bool) -> int:
    """Print the table; write JSON and plot."""
    from rich.console import Console

    from apt_plugin.hosts.lerobot import register

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
    register()
    rows = rows_of(family, size, device, rounds, batch)
    facts = {"host": "lerobot", "model": family, "size": size, "device": device, "batch": rows[0].batch}
    facts |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    Console(width=None if not plain else 200).print(table(rows))
    if json is not None:
        write(rows, facts, json)
    return 0
