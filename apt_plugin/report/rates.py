"""Success rates on the page: what was tested, a plot, every figure with its interval, and which differences count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apt_plugin.report import plots
from apt_plugin.report.html import Html, figure, grid, intro, join, tag, value
from apt_plugin.report.parts import Data, Looks, legend
from apt_plugin.report.values import percent, points, span


def rates(data: Data, looks: Looks) -> Html:
    cells = {(row["arm"], row["split"]): row for row in data["rows"]}
    runs = any(row["runs"] for row in data["rows"])
    plotted = bool(cells) and plots.available()
    parts = [
        intro(
            data["note"],
            "Each figure is the share of test episodes that succeeded, and under it the range in which the true rate "
            "plausibly lies (95 %, Wilson). That range knows the luck of the episodes only: training again with "
            "another seed can move a rate by more.",
            "The last line of a cell gives the single training runs" + (" (small hollow marks)." if plotted else ".")
            if runs
            else "",
        ),
        _glossary(data["glossary"]),
    ]
    if plotted:
        spoken = [
            f"{row['arm']}, {row['split']}: {percent(row['rate'])} ({span(row['low'], row['high'])})"
            for row in data["rows"]
        ]
        alt = f"Dots with intervals on a scale from 0 to 100 %. {'; '.join(spoken)}."
        parts.append(figure(plots.rates(data, looks), alt, legend(looks, data["arms"])))
    parts.append(_matrix(data, looks, f"{data['title']}, in numbers", {key: _cell(row) for key, row in cells.items()}))
    if data["comparisons"]:
        found = {(item["arm"], item["split"]): _difference(item) for item in data["comparisons"]}
        rules = " or ".join(dict.fromkeys(item["rule"] for item in data["comparisons"]))
        parts += [
            tag("h3", f"Which differences from “{data['reference']}” count"),
            intro(
                "Differences in percentage points, with their 95 % intervals. “Better” or “worse” means that the "
                f"interval excludes zero ({rules}); otherwise these tests cannot tell the two apart. Where nothing "
                "differs, about one comparison in twenty still looks as if it did."
            ),
            _matrix(data, looks, f"Differences from {data['reference']}", found, leave_out=data["reference"]),
        ]
    return join(parts)


def _matrix(data: Data, looks: Looks, caption: str, cells: Mapping[Any, Html], leave_out: str = "") -> Html:
    """Arms down, splits across."""
    absent = tag("span", "not run", class_="absent")
    rows = [
        [join([plots.swatch(looks[arm]), arm]), *[cells.get((arm, split), absent) for split in data["splits"]]]
        for arm in data["arms"]
        if arm != leave_out
    ]
    return grid(["", *data["splits"]], rows, caption, range(1, len(data["splits"]) + 1))


def _cell(row: Data) -> Html:
    counts = tag("small", value(row["successes"]), " of ", value(row["episodes"]))
    if row["rate"] is None:
        return join([value(None), counts])
    low, high = (value(row[end], f"{100 * row[end]:.1f}") for end in ("low", "high"))
    single = [value(run["rate"], percent(run["rate"]).removesuffix(" %")) for run in row["runs"]]
    rate = tag("b", value(row["rate"], percent(row["rate"])))
    listed = tag("small", Html(" ".join(single)), class_="runs") if single else ""
    return join([rate, tag("small", low, " to ", high), counts, listed])


def _difference(item: Data) -> Html:
    low, high = (value(item[end], points(item[end])) for end in ("low", "high"))
    sign = {"better": "▲ ", "worse": "▼ ", "within noise": ""}[item["verdict"]]
    said = tag("small", sign, item["verdict"], class_="said " + item["verdict"].replace(" ", "-"))
    return join([tag("b", value(item["value"], points(item["value"]))), tag("small", low, " to ", high), said])


def _glossary(words: Mapping[str, str]) -> Html:
    if not words:
        return Html()
    return tag("dl", *[tag("div", tag("dt", name), tag("dd", text)) for name, text in words.items()], class_="words")
