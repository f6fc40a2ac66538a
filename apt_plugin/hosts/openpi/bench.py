"""`apt-plugin bench` in openpi: the host's own steps compiled, counted and timed, all rows in one run.

On meta nothing is run: FLOPs and memory of programs compiled from shapes, at the real size too.
"""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apt_plugin.bench import Row, show
from apt_plugin.bench.memory import table
from apt_plugin.errors import AptError, choose

logger = logging.getLogger(__name__)

FAMILIES = ("pi05", "pi0")
DEVICES = ("cpu", "cuda", "meta")
# A CPU has no bfloat16 products: XLA would hold a float32 copy of the whole VLM instead of one layer's.
HOIST_OFF = "--xla_disable_hlo_passes=while-loop-invariant-code-motion"


def rows_of(
    family: str, size: str, device: str, rounds: int, batch: int | None = None,
    only: Callable[[Row], bool] = lambda row: True, memory: bool = False,
) -> list[Row]:  # fmt: skip
    """Measure the rows of one family; memory: those of `bench.memory`.

    Raises:
        AptError: unknown family, size or device; no checkout of openpi.
    """
    choose("family", family, FAMILIES)
    choose("device", device, DEVICES)
    from dataclasses import replace

    from openpi.shared import array_typing as at

    from apt_plugin.hosts.openpi import bench_host, bench_rows

    chosen = bench_host.SIZES[choose("size", size, bench_host.SIZES)]
    chosen = chosen if batch is None else replace(chosen, batch=batch)
    out = []
    with bench_host.sized(chosen), at.disable_typechecking():  # shapes stand where openpi checks for arrays
        bench = bench_rows.Bench(family, chosen, memory or device == "meta")
        if memory:
            return [fill() for _, fill in bench.memory_rows()]
        for row, make in bench.rows():
            if only(row):
                case = make()
                out.append(bench_rows.measure(row, case, 0 if device == "meta" else rounds))
                logger.info("%s: %.3g GFLOP", row.name, row.flops / 1e9)
                del case
                gc.collect()
    return out


def run(
    family: str, size: str, device: str, rounds: int, batch: int | None, json: Path | None, plain: bool, memory: bool
) -> int:
    """Print the table; write JSON and plot."""
    if device == "meta":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {HOIST_OFF}".strip()
    import jax

    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    if device == "cuda" and jax.default_backend() != "gpu":
        raise AptError(
            "device is 'cuda', and JAX finds no GPU. Write cpu, or meta: counted FLOPs and planned bytes, no times."
        )
    rows = rows_of(family, size, device, rounds, batch, memory=memory)
    facts: dict[str, Any] = {"host": f"openpi {importlib.metadata.version('openpi')}", "model": family, "size": size}
    facts |= {"device": device, "jax": jax.__version__, "compiled for": jax.default_backend()}
    show(rows, facts, json, plain, table if memory else None)
    return 0
