"""Plots as inline SVG with real text. Needs matplotlib (the `report` extra); without it there are only tables.

Each is drawn twice, for wide and for narrow screens, because text in one scaled drawing is unreadable on a phone.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from apt_plugin.report.html import Html, tag
from apt_plugin.report.style import GRID, INK, MUTED, Look, layer_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 10.4, 4.8  # inches of 72 units each; shown at 748 and about 345 px
SETTINGS: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 11.5, "axes.spines.top": False,
    "axes.spines.right": False, "axes.spines.left": False, "axes.edgecolor": "#b3bcc7", "axes.labelcolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.major.size": 0, "ytick.major.size": 0, "ytick.minor.size": 0,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.9, "axes.axisbelow": True, "text.color": INK,
    "axes.formatter.useoffset": False, "axes.labelpad": 7, "figure.constrained_layout.use": True,
}  # fmt: skip


def available() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def curves(data: Mapping[str, Any], looks: Mapping[str, Look]) -> Html:
    """The lines of a Curves section."""

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for line in data["series"]:
            style = looks[line["name"]]
            every = max(1, len(line["x"]) // 8)
            _line(axes, line, color=style.colour, linestyle=style.dash, marker=style.marker, markevery=every)
        if logarithmic(data):
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(_ticker().NullLocator())
            axes.yaxis.set_major_locator(_ticker().LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
            axes.yaxis.set_major_formatter(_ticker().FuncFormatter(lambda y, _: f"{y:g}"))
        marks = [mark for mark in data["marks"] if mark["x"] is not None]
        for mark in marks:
            axes.axvline(mark["x"], color=INK, linewidth=1.1, linestyle=(0, (3, 2)), zorder=1.5)
        low, high = axes.get_xlim()
        for index, mark in enumerate(marks):
            late = (mark["x"] - low) > 0.55 * (high - low)
            where = {"xy": (mark["x"], 1), "xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            axes.annotate(
                mark["name"], xytext=(-5 if late else 5, -10 - 15 * index), ha="right" if late else "left",
                va="center", fontsize=11, color=INK, **where,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85},
            )  # fmt: skip
        axes.set_xlabel(data["x_label"])
        axes.set_title(data["y_label"], loc="left", fontsize=11.5, color=MUTED, pad=8)

    return _pair(draw, 3.5, 3.5, f"c-{data['anchor']}")


def scatter(data: Mapping[str, Any], looks: Mapping[str, Look]) -> Html:
    """The marks of a Scatter section."""

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for line in data["series"]:
            style = looks[line["name"]]
            y = [np.nan if value is None else value for value in line["y"]]
            axes.plot(line["x"], y, style.marker, color=style.colour, markersize=7, alpha=0.85)
        axes.set_xlabel(data["x_label"])
        axes.set_title(data["y_label"], loc="left", fontsize=11.5, color=MUTED, pad=8)

    return _pair(draw, 3.8, 3.8, f"x-{data['anchor']}")


def gates(data: Mapping[str, Any]) -> Html:
    """Left: each layer's gate over the steps. Right: where each ended."""
    lines = data["series"]
    colours = [layer_colour(index, len(lines)) for index in range(len(lines))]

    def draw(figure: Figure, narrow: bool) -> None:
        if narrow:
            over, ends = figure.subplots(2, 1, height_ratios=(1, 1))
        else:
            over, ends = figure.subplots(1, 2, width_ratios=(1.25, 1))
        for line, colour in zip(lines, colours, strict=True):
            _line(over, line, color=colour)
        finals = [np.nan if line["final"] is None else line["final"] for line in lines]
        ends.bar(range(len(lines)), finals, color=colours, width=0.78)
        for axes in (over, ends):
            if data["start"] is not None:
                axes.axhline(data["start"], color=INK, linewidth=1.1, linestyle=(0, (3, 2)))
        ends.axhline(0, color="#8993a0", linewidth=1)
        low, high = ends.get_ylim()
        ends.set_ylim(min(low, 0), max(high, 0.1))
        low, high = over.get_ylim()
        if high - low < 0.1:  # do not blow up a change that is next to nothing
            over.set_ylim((low + high) / 2 - 0.05, (low + high) / 2 + 0.05)
        every = max(1, -(-len(lines) // (9 if narrow else 12)))
        ends.set_xticks(range(0, len(lines), every), [line["name"] for line in lines[::every]])
        longest = max((len(line["name"]) for line in lines), default=0)
        if longest * len(lines) / every > 40:
            ends.tick_params(axis="x", labelrotation=90)
        ends.grid(axis="x", visible=False)
        over.set_xlabel("optimiser step of Stage 2")
        ends.set_xlabel("layer, first to last")
        over.set_title("gate over training", loc="left", fontsize=11.5, color=MUTED, pad=8)
        ends.set_title("gate at the end", loc="left", fontsize=11.5, color=MUTED, pad=8)

    return _pair(draw, 3.3, 6.0, f"g-{data['anchor']}")


def rates(data: Mapping[str, Any], looks: Mapping[str, Look]) -> Html:
    """A row per split and arm: dot at the rate, bar for its interval, small marks for single runs."""
    cells = {(row["arm"], row["split"]): row for row in data["rows"]}
    arms, splits = data["arms"], data["splits"]
    block = len(arms) + 1.0  # the lines of a split, and a gap

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for i, split in enumerate(splits):
            if i % 2 == 0:
                axes.axhspan(i * block - 0.5 * block, i * block + 0.5 * block, color="#f5f7f9", zorder=0, linewidth=0)
            for j, arm in enumerate(arms):
                row, style = cells.get((arm, split)), looks[arm]
                if row is None or row["rate"] is None:
                    continue
                y = i * block + j - (len(arms) - 1) / 2
                axes.hlines(y, 100 * row["low"], 100 * row["high"], color=style.colour, linewidth=2.4, alpha=0.55)
                axes.plot(100 * row["rate"], y, style.marker, color=style.colour, markersize=7.5, clip_on=False)
                single = [100 * run["rate"] for run in row["runs"] if run["rate"] is not None]
                axes.plot(
                    single, [y] * len(single), style.marker, markersize=4.5, markerfacecolor="white",
                    markeredgecolor=style.colour, markeredgewidth=1.2, zorder=3, clip_on=False,
                )  # fmt: skip
        axes.set_yticks([i * block for i in range(len(splits))], splits)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(splits) * block - 0.5 * block, -0.5 * block)
        axes.set_xlim(-1, 101)
        axes.set_xticks(range(0, 101, 25 if narrow else 10))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("success, % of episodes")

    height = 0.75 + len(splits) * block * 0.215
    return _pair(draw, height, height, f"r-{data['anchor']}")


def logarithmic(data: Mapping[str, Any]) -> bool:
    """A loss that falls over decades is drawn on a logarithmic axis, and the page says so."""
    ends = [line[end] for line in data["series"] for end in ("lowest", "highest") if line[end] is not None]
    return bool(ends) and min(ends) > 0 and max(ends) > 50 * min(ends)


def swatch(style: Look) -> Html:
    """A legend's sample of line and marker, drawn without matplotlib."""
    shapes = {
        "o": '<circle cx="17" cy="7" r="4.2"/>', "s": '<path d="M13.2 3.2h7.6v7.6h-7.6z"/>',
        "^": '<path d="M17 2.4l4.9 8.6h-9.8z"/>', "v": '<path d="M17 11.6l4.9-8.6h-9.8z"/>',
        "D": '<path d="M17 1.8l5.2 5.2-5.2 5.2-5.2-5.2z"/>',
        "P": '<path d="M15.4 2.4h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z"/>',
        "X": '<path d="M13 4.6l1.6-1.6 2.4 2.4 2.4-2.4L21 4.6 18.6 7 21 9.4 19.4 11 17 8.6 14.6 11 13 9.4 15.4 7z"/>',
    }  # fmt: skip
    line = Html(
        f'<path d="M1 7h32" stroke="{style.colour}" stroke-width="2.2" stroke-dasharray="{style.svg_dash}"/>'
        f'<g fill="{style.colour}">{shapes[style.marker]}</g>'
    )
    return tag("svg", line, class_="swatch", viewBox="0 0 34 14", aria_hidden="true")


def _ticker() -> Any:
    from matplotlib import ticker

    return ticker


def _line(axes: Axes, line: Mapping[str, Any], **style: Any) -> None:
    y = np.array([np.nan if value is None else value for value in line["y"]], float)
    axes.plot(line["x"], y, linewidth=1.8, markersize=4.8, solid_joinstyle="round", **style)


def _pair(draw: Callable[[Figure, bool], None], wide: float, narrow: float, key: str) -> Html:
    return Html(_svg(draw, WIDE, wide, False, key) + _svg(draw, NARROW, narrow, True, key))


def _svg(draw: Callable[[Figure, bool], None], width: float, height: float, narrow: bool, key: str) -> str:
    """One drawing; its ids are made unique in the page, and everything that is not drawing is dropped."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    name = f"{key}-{'narrow' if narrow else 'wide'}"
    with rc_context({**SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label's glyph that matplotlib's own font lacks: the reader's has it
        figure = Figure(figsize=(width, height))
        draw(figure, narrow)
        sink = io.StringIO()
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub("<[^<>]+>", lambda found: re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", found[0]), text)
    kind, box = name.rpartition("-")[2], f"0 0 {width * 72:g} {height * 72:g}"
    return f'<svg class="{kind}" viewBox="{box}" aria-hidden="true">' + text[text.index(">") + 1 :].strip()
