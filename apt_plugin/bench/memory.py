"""What the default recipe holds in memory beside the host's own run of one command: `apt-plugin bench --memory`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from apt_plugin.bench.table import Row

GIB = 2**30
STAGES = ((1, 4), (2, 4), (2, 1))  # stage, noise draws; without the default's draws, too: they take most of the rest


class OwnCommand(NamedTuple):
    """One way in which a user of the host trains."""

    name: str  # what trains, or how
    make: Callable[[], Any]  # its step
    vlm: str  # what the recipe's `vlm: host` makes of it


def rows_of(
    commands: Iterable[OwnCommand],
    stage: Callable[..., Any],
    batch: int,
    stages: Sequence[tuple[int, int]] = STAGES,
) -> Iterator[tuple[Row, Callable[[], Any]]]:
    """(row, make): of each command the host's own run and what the recipe adds; Stage 1 once, it is the same for all.

    Args:
        stage: (row, stage, vlm=...) makes a step of ours; stages: which, each with its noise draws.
    """
    for place, command in enumerate(commands):
        yield Row(f"host, {command.name}", "train", 1, batch, command=command.name), command.make
        for number, draws in stages[1 if place else 0 :]:
            row = Row(f"APT Stage {number}, K={draws}", "train", draws, batch, command=command.name)
            vlm = command.vlm if number == 2 else "frozen"
            yield row, lambda row=row, number=number, vlm=vlm: stage(row, number, vlm=vlm)


def over(row: Row, rows: Sequence[Row]) -> float | None:
    """Bytes above the host's own run of the row's command; None of that run itself."""
    host = next(each for each in rows if each.command == row.command)
    return None if row is host or row.total is None or host.total is None else row.total - host.total


def table(rows: Sequence[Row]) -> Any:
    """A rich table in GiB."""
    from rich.table import Table

    out = Table("", "GiB", "over the host's own", "added parameters", "weights and moments", "the step", title=TITLE)
    for row in rows:
        above = over(row, rows)
        held, peak = sum(row.standing.values()), row.peak or 0
        out.add_row(
            row.name, f"{(held + peak) / GIB:.2f}", "" if above is None else f"{above / GIB:+.2f}",
            f"{row.added / GIB:.2f}" if row.added else "", f"{held / GIB:.2f}", f"{peak / GIB:.2f}",
        )  # fmt: skip
    return out


TITLE = (
    "K: noise draws. Added parameters: their weights, gradients and two moments. The step: activations and gradients, "
    "without an allocator's gaps"
)
