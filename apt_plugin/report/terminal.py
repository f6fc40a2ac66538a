"""The report's verdict, code, proofs and rates on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from apt_plugin.report.sections import CONTRACTS, Section
from apt_plugin.report.values import ABSENT, percent, points, show

MARKS = {True: Text("✓ holds", "green"), False: Text("✗ FAILS", "bold red"), None: Text("– not run", "dim")}


def console(sections: Sequence[Section], target: Console | None = None) -> None:
    """Print what fits a terminal: Verdict, Code, Proofs and Rates; other sections are for the page."""
    target = target or Console()
    for section in sections:
        data = section.data()
        if draw := {"verdict": _verdict, "code": _code, "proofs": _proofs, "rates": _rates}.get(data["kind"]):
            draw(data, target)


def _verdict(data: Mapping[str, Any], target: Console) -> None:
    for sentence in data["sentences"]:
        target.print(Text(sentence))
    target.print()


def _code(data: Mapping[str, Any], target: Console) -> None:
    target.print(Text(data["title"], "bold"))
    target.print(Text(data["text"]), soft_wrap=True)
    target.print()


def _proofs(data: Mapping[str, Any], target: Console) -> None:
    table = Table(title=Text(data["title"]), title_justify="left", box=None, pad_edge=False, header_style="dim")
    for name in ("", "contract", "check", "found", "limit"):
        table.add_column(name, justify="right" if name in ("found", "limit") else "left", no_wrap=not name)
    last = None
    for row in data["rows"]:
        contract = CONTRACTS.get(row["contract"], (row["contract"], ""))[0]
        what = Text(row["what"]).append(f"\n{row['note']}" if row["note"] else "", "dim")
        name = Text("" if contract == last else contract)
        table.add_row(MARKS[row["passed"]], name, what, Text(show(row["value"])), Text(show(row["limit"])))
        last = contract
    target.print(table)
    target.print()


def _rates(data: Mapping[str, Any], target: Console) -> None:
    cells = {(row["arm"], row["split"]): _cell(row) for row in data["rows"]}
    target.print(_matrix(data, data["title"], data["arms"], cells))
    target.print(Text("In brackets: 95 % Wilson interval over the test episodes; training seeds vary more.", "dim"))
    target.print()
    if data["comparisons"]:
        arms = [arm for arm in data["arms"] if arm != data["reference"]]
        found = {(item["arm"], item["split"]): _difference(item) for item in data["comparisons"]}
        target.print(_matrix(data, f"Minus {data['reference']}, in points", arms, found))
        target.print(Text("Better or worse: the 95 % interval in brackets excludes zero.", "dim"))
        target.print()


def _matrix(data: Mapping[str, Any], title: str, arms: list[str], cells: Mapping[Any, Text]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for split in data["splits"]:
        table.add_column(Text(split), justify="right")
    for arm in arms:
        table.add_row(Text(arm), *[cells.get((arm, split), Text("not run", "dim")) for split in data["splits"]])
    return table


def _cell(row: Mapping[str, Any]) -> Text:
    if row["rate"] is None:
        return Text(ABSENT, "dim")
    return Text(percent(row["rate"])).append(f"\n[{100 * row['low']:.0f} to {100 * row['high']:.0f}]", "dim")


def _difference(item: Mapping[str, Any]) -> Text:
    colour = {"better": "green", "worse": "red"}.get(item["verdict"], "")
    text = Text(points(item["value"])).append(f"\n{item['verdict'].removeprefix('within ')}", colour)
    return text.append(f"\n[{100 * item['low']:+.0f} to {100 * item['high']:+.0f}]", "dim")
