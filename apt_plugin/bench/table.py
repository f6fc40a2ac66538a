"""The rows of a benchmark as a table, JSON and a plot. Framework-free."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apt_plugin import files


@dataclass
class Row:
    """One way of doing a step."""

    name: str
    kind: str  # "train" or "act"
    draws: int  # noise draws per sample
    batch: int
    flops: float = 0.0  # counted, of the whole step
    floor: float = 0.0  # prefix once + draws x expert forward and backward; 0 where there is none
    seconds: float | None = None  # best of the rounds; None where nothing was timed
    peak: float | None = None  # bytes above where the step began, gradients included
    standing: dict[str, int] = field(default_factory=dict)  # bytes held between steps
    added: int = 0  # bytes that the recipe's own parameters take: weights, gradients, moments
    command: str = ""  # the host's own command that it is laid beside, see `bench.memory`

    @property
    def of_floor(self) -> float | None:
        return self.flops / self.floor if self.floor else None

    @property
    def samples_per_s(self) -> float | None:
        return self.batch / self.seconds if self.seconds else None

    @property
    def draws_per_s(self) -> float | None:
        return self.batch * self.draws / self.seconds if self.seconds else None

    @property
    def total(self) -> float | None:
        return None if self.peak is None else self.peak + sum(self.standing.values())

    def as_json(self) -> dict[str, Any]:
        derived = ("of_floor", "samples_per_s", "draws_per_s", "total")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def _shown(value: float | None, form: str = "{:.2f}") -> str:
    return "" if value is None else form.format(value)


def table(rows: Sequence[Row]) -> Any:
    """A rich table; ratios are to the first row of the same kind."""
    from rich.table import Table

    out = Table(
        "", "K", "GFLOP", "of first", "of floor", "ms", "samples/s", "draws/s", "per draw", "peak MiB", "with weights",
        title="peak: of the step, gradients included; with weights: plus weights and AdamW's moments",
    )  # fmt: skip
    first: dict[str, Row] = {}
    for row in rows:
        base = first.setdefault(row.kind, row)
        timed = row.seconds is not None and base.seconds is not None
        mine, theirs = (row.seconds, base.seconds) if timed else (row.flops, base.flops)
        per_draw = (mine or 0) / (theirs or 1) * base.draws / row.draws
        out.add_row(
            row.name, str(row.draws) if row.kind == "train" else "", f"{row.flops / 1e9:.1f}",
            f"{(mine or 0) / (theirs or 1):.3f}", _shown(row.of_floor, "{:.3f}"),
            _shown(row.seconds and 1e3 * row.seconds, "{:.1f}"), _shown(row.samples_per_s), _shown(row.draws_per_s),
            f"{per_draw:.3f}" if row.kind == "train" else "", _shown(row.peak and row.peak / 2**20, "{:.0f}"),
            _shown(row.total and row.total / 2**20, "{:.0f}"),
        )  # fmt: skip
    return out


def show(
    rows: Sequence[Row], facts: dict[str, Any], path: Path | None, plain: bool, made: Callable[..., Any] | None = None
) -> None:
    """Print the table, and `write` its rows where a path is given.

    Args:
        plain: a fixed width, for logs; made: another table of the rows.
    """
    from rich.console import Console

    Console(width=200 if plain else None).print((made or table)(rows))
    if path is not None:
        write(rows, facts | {"batch": rows[0].batch}, path)


def write(rows: Sequence[Row], facts: dict[str, Any], path: Path) -> None:
    """`path` (.json), and beside it a plot as SVG where matplotlib is there."""
    files.write_json(path, {"facts": facts, "rows": [row.as_json() for row in rows]})
    from apt_plugin.report import plots

    if plots.available():
        files.write_bytes(path.with_suffix(".svg"), plot(rows, facts))


def plot(rows: Sequence[Row], facts: dict[str, Any]) -> bytes:
    """Bars of the cost per draw, relative to the first training row."""
    import io

    from matplotlib.figure import Figure

    from apt_plugin.report.style import INK, MUTED, layer_colour

    trained = [row for row in rows if row.kind == "train"]
    timed = all(row.seconds for row in trained)
    costs = [((row.seconds if timed else row.flops) or 0) / row.draws / row.batch for row in trained]
    ratios = [cost / (costs[0] or 1) for cost in costs]
    figure = Figure(figsize=(8, 0.42 * len(trained) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(trained)), ratios, color=[layer_colour(i, len(trained)) for i in range(len(trained))])
    axes.set_yticks(range(len(trained)), [row.name for row in trained], color=INK)
    axes.invert_yaxis()
    axes.set_xscale("log")
    for place, ratio in enumerate(ratios):
        axes.annotate(f" {ratio:.3f}", (ratio, place), va="center", color=INK)
    what = "time" if timed else "FLOPs"
    axes.set_xlabel(f"{what} per gradient sample (noise draw), relative to the first row", color=MUTED)
    axes.set_title(", ".join(f"{k} {v}" for k, v in facts.items()), fontsize=8, color=MUTED, loc="left")
    out = io.BytesIO()
    figure.savefig(out, format="svg")
    return out.getvalue()
