"""Which rows a host's benchmark has, in order: the same for every host, so that tables can be laid side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from apt_plugin.bench.table import Row

Made = tuple[Any, Callable[[], None]]  # a model and one step of it
Case = TypeVar("Case", covariant=True)  # what a host makes of a row: `Made`, or a compiled program


class Bench(Protocol[Case]):
    """Makes one row's model at a time, so that only one is in memory."""

    def stock(self, everything: bool) -> Case:
        """The host's own training: all of it, or with its own freezing."""
        ...

    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen") -> Case:
        """One of ours; fills in the row's floor where it has one."""
        ...

    def acting(self, scale: float | None) -> Case:
        """Sampling by the host's own policy (None), or by ours at a guidance scale."""
        ...


def rows_of(
    bench: Bench[Case], batch: int, freezing: str, lora: bool = True
) -> Iterator[tuple[Row, Callable[[], Case]]]:
    """(row, make); make() builds a model and gives it with its step.

    Args:
        freezing: what the host calls its own way of training the expert alone; lora: whether the host knows adapters.
    """

    def row(name: str, draws: int = 1, kind: str = "train") -> Row:
        return Row(name, kind, draws, batch)

    yield row("host, everything trained"), lambda: bench.stock(True)
    yield row(f"host, {freezing}"), lambda: bench.stock(False)
    for draws in (1, 4, 8):
        yield (r := row(f"APT Stage 1, K={draws}", draws)), lambda r=r: bench.stage(r, 1)
        yield (r := row(f"APT Stage 1, K={draws}, cache", draws)), lambda r=r: bench.stage(r, 1, cached=True)
    yield (r := row("APT Stage 2, frozen VLM", 4)), lambda r=r: bench.stage(r, 2)
    yield (r := row("APT Stage 2, frozen VLM, cache", 4)), lambda r=r: bench.stage(r, 2, cached=True)
    if lora:
        yield (r := row("APT Stage 2, LoRA on the VLM", 4)), lambda r=r: bench.stage(r, 2, vlm="lora")
    yield (r := row("APT Stage 2, VLM trained", 4)), lambda r=r: bench.stage(r, 2, vlm="full")
    yield row("host acting", kind="act"), lambda: bench.acting(None)
    yield row("APT acting", kind="act"), lambda: bench.acting(1.0)
    yield row("APT acting, guidance 1.5", kind="act"), lambda: bench.acting(1.5)
