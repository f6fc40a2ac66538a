"""The benchmark's rows, table, JSON and plot, without a framework."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from apt_plugin.bench import Row, memory, table, write
from apt_plugin.bench.rows import rows_of


class Asked:
    """A bench that notes what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def _made(self, *call: object) -> tuple[object, object]:
        self.calls.append(call)
        return None, lambda: None

    def stock(self, everything: bool):
        return self._made("stock", everything)

    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen"):
        return self._made(stage, row.draws, cached, vlm)

    def acting(self, scale: float | None):
        return self._made("act", scale)


def test_every_row_that_is_promised_is_there() -> None:
    bench = Asked()
    rows = [row for row, make in rows_of(bench, 8, "frozen backbone") if make()]  # type: ignore[arg-type]
    assert bench.calls[:2] == [("stock", True), ("stock", False)]
    assert {(1, draws, cached, "frozen") for draws in (1, 4, 8) for cached in (False, True)} <= set(bench.calls)
    assert {(2, 4, False, vlm) for vlm in ("frozen", "lora", "full")} <= set(bench.calls)
    assert [call for call in bench.calls if call[0] == "act"] == [("act", None), ("act", 1.0), ("act", 1.5)]
    assert len({row.name for row in rows}) == len(rows)
    assert {row.batch for row in rows} == {8}


ROWS = [
    Row("host", "train", 1, 2, flops=8e9, seconds=0.5, peak=3 * 2**20, standing={"frozen weights": 2**20}),
    Row("ours, K=4", "train", 4, 2, flops=4e9, floor=3.9e9, seconds=0.25, peak=2**20),
    Row("acting", "act", 1, 2, flops=1e9),
]


def test_what_is_derived_from_a_row() -> None:
    row = ROWS[1]
    assert (row.samples_per_s, row.draws_per_s) == (8, 32)
    assert row.of_floor == pytest.approx(4 / 3.9)
    assert ROWS[0].total == 4 * 2**20
    assert ROWS[2].of_floor is ROWS[2].samples_per_s is ROWS[2].total is None


def test_table_json_and_plot_hold_the_same_rows(tmp_path: Path) -> None:
    console = Console(width=200, record=True, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    console.print(table(ROWS))
    shown = next(line for line in console.export_text().splitlines() if "ours" in line).split()
    assert {"4.0", "0.500", "1.026", "250.0", "8.00", "32.00", "0.125", "1"} <= set(shown)  # FLOPs, ratios, rates, MiB
    write(ROWS, {"host": "test"}, tmp_path / "bench.json")
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["facts"] == {"host": "test"}
    assert [row["name"] for row in kept["rows"]] == [row.name for row in ROWS]
    assert kept["rows"][1]["draws_per_s"] == 32
    assert "<svg" in (tmp_path / "bench.svg").read_text()


def test_the_memory_of_the_default_is_laid_beside_the_hosts_own_of_the_same_command() -> None:
    bench = Asked()
    commands = (
        memory.OwnCommand("everything", lambda: bench.stock(True), "full"),
        memory.OwnCommand("LoRA", lambda: bench.stock(False), "lora"),
    )
    rows = [row for row, make in memory.rows_of(commands, bench.stage, 8) if make()]
    assert bench.calls == [
        ("stock", True), (1, 4, False, "frozen"), (2, 4, False, "full"), (2, 1, False, "full"),
        ("stock", False), (2, 4, False, "lora"), (2, 1, False, "lora"),
    ]  # fmt: skip
    for row, total in zip(rows, (10, 2, 11, 9, 5, 4, 3), strict=True):
        row.peak, row.standing = 0.0, {"weights": total * memory.GIB}
    rows[2].added = memory.GIB
    assert [memory.over(row, rows) for row in rows] == [
        None, -8 * memory.GIB, memory.GIB, -memory.GIB, None, -memory.GIB, -2 * memory.GIB,
    ]  # fmt: skip
    console = Console(width=200, record=True)
    console.print(memory.table(rows))
    told = console.export_text()
    (line,) = [line for line in told.splitlines() if "+1.00" in line]
    assert [cell.strip() for cell in line.split("│")][1:6] == ["APT Stage 2, K=4", "11.00", "+1.00", "1.00", "11.00"]
