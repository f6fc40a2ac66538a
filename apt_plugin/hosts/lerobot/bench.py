"""`apt-plugin bench` in lerobot: one table per model family, all rows in one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from apt_plugin.backends.torch_bench import facts_of, measured, settle
from apt_plugin.bench import Row, show
from apt_plugin.bench.memory import table
from apt_plugin.errors import choose
from apt_plugin.hosts.lerobot.families import POLICIES, of

DEVICES = ("cpu", "cuda", "meta")


def rows_of(
    family: str, size: str, device: str, rounds: int, batch: int | None = None, checkpointing: bool = False,
    only: Callable[[Row], bool] = lambda row: True, memory: bool = False,
) -> list[Row]:  # fmt: skip
    """Measure the rows of one family; memory: those of `bench.memory`.

    Raises:
        AptError: unknown family, size or device; GR00T on the meta device (its VLM asks values of its inputs).
    """
    choose("family", family, POLICIES)
    choose("device", device, DEVICES)
    bench = of(family).bench(family, size, device, batch, checkpointing)
    return measured(bench.memory_rows() if memory else bench.rows(), device, rounds, only)


def run(
    family: str, size: str, device: str, rounds: int, batch: int | None, json: Path | None, plain: bool, memory: bool
) -> int:
    """Print the table; write JSON and plot."""
    from apt_plugin.hosts.lerobot import register

    settle(device)
    register()
    rows = rows_of(family, size, device, rounds, batch, memory=memory)
    made = table if memory else None
    show(rows, {"host": "lerobot", "model": family, "size": size, **facts_of(device)}, json, plain, made)
    return 0
