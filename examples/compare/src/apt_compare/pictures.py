"""Two pictures of the results: which way of training led where, and whether success follows what the VLM keeps.

Differences are those of the tables: settings with one world by all unseen splits, those with a world a seed by five.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_compare import worlds
from apt_compare.board import Board, shared
from apt_compare.plan import Configs
from apt_compare.stats import Estimate, difference
from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.report import plots, style

DECISION, RETENTION = "decision.svg", "retention.svg"
OWN, FROZEN = "stock_full", "stock_frozen"
#: What a user has: (words, setting, the host's own training there).
PLACES = (
    ("300 demonstrations", "random", OWN),
    ("100 demonstrations", "little", OWN),
    ("300, and wordless play", "play", OWN),
    ("100, and wordless play", "little_play", OWN),
    ("nearly all in one layout", "fixed", OWN),
    ("every scene has one usual task", "certain", OWN),
    ("the expert comes trained", "trained", OWN),
    ("300, your command freezes the VLM", "random", FROZEN),
)
#: Arms, as a user would type them.
WAYS: Mapping[str, str] = {
    "warmup": "--recipe warmup",
    "gated_full_even": "--recipe apt",
    "gated_full_even @1.5": "--recipe apt, guidance 1.5",
    "goal_mix @1.5": "the play told where it ended, guidance 1.5 (no flag)",
    "gated_one_stage": "--recipe apt, the VLM frozen",
}
EDGE = 26  # points; an interval that goes on beyond has an arrow


def cells(found: Sequence[Mapping[str, Any]], configs: Configs) -> Iterator[tuple[str, str, Estimate]]:
    """(place, way, difference to the host's own training) of everything that was run."""
    one, each = worlds.apart(found, configs)
    board = Board(shared(one, configs))
    for place, setting, rival in PLACES:
        runs = worlds.by_arm([run for run in each if run["setting"] == setting])
        for arm, way in WAYS.items():
            if (rival == FROZEN) != (arm == "gated_one_stage"):
                continue
            if runs and arm in runs and rival in runs:
                made = difference(worlds.counts(runs[arm]), worlds.counts(runs[rival]))
            else:
                made = board.difference(setting, "steps", arm, rival, board.unseen)
            if made is not None:
                yield place, way, made


def kept(found: Sequence[Mapping[str, Any]], configs: Configs) -> dict[str, list[tuple[float, float, str]]]:
    """By setting: (pointing at the end of training, success in %, arm) of every run that trained its VLM."""
    out: dict[str, list[tuple[float, float, str]]] = {}
    for run in worlds.apart(found, configs)[1]:
        if len(run["retention"]) > 1:
            dot = (run["retention"][-1][1], 100 * worlds.score(run), run["arm"])
            out.setdefault(run["setting"], []).append(dot)
    return out


def write(found: Sequence[Mapping[str, Any]], configs: Configs, folder: Path) -> None:
    """
    Raises:
        AptError: matplotlib is not installed, or the folder cannot be written.
    """
    if not plots.available():
        raise AptError('Pictures need matplotlib: pip install "apt-plugin[report]".')
    files.make_folder(folder, "--output")
    files.write_bytes(folder / DECISION, decision(list(cells(found, configs))))
    files.write_bytes(folder / RETENTION, retention(kept(found, configs)))


def decision(made: Sequence[tuple[str, str, Estimate]]) -> bytes:
    """A dot for each way under each place, a bar for its 95 % interval."""
    ways = list(dict.fromkeys(way for _, way, _ in made))
    looks = {way: style.look(index) for index, way in enumerate(ways)}

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        y, marks = 0.0, []
        for place in dict.fromkeys(place for place, _, _ in made):
            rows = [(way, each) for each_place, way, each in made if each_place == place]
            marks.append((y + (len(rows) - 1) / 2, place))
            for way, each in rows:
                low, value, high = (100 * number for number in (each.low, each.value, each.high))
                look = looks[way]
                label = way if not any(line.get_label() == way for line in axes.lines) else None
                axes.hlines(y, max(low, -EDGE), min(high, EDGE), color=look.colour, linewidth=2.6, alpha=0.5)
                for end, beyond, arrow in ((-EDGE, low < -EDGE, "<"), (EDGE, high > EDGE, ">")):
                    if beyond:
                        axes.plot(end, y, arrow, color=look.colour, markersize=5, clip_on=False)
                axes.plot(value, y, look.marker, color=look.colour, markersize=6.5, label=label, linestyle="none")
                axes.text(EDGE + 1.5, y, f"{value:+.0f} ({low:+.0f} to {high:+.0f})", va="center", fontsize=9)
                y += 1
            y += 1.2
        axes.axvline(0, color=style.INK, linewidth=1)
        axes.set_yticks([at for at, _ in marks], [place for _, place in marks])
        axes.tick_params(axis="y", labelcolor=style.INK)
        axes.set_ylim(y - 1, -1)
        axes.set_xlim(-EDGE, EDGE)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("unseen instructions followed, points over the host's own training (95 % interval)")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9.5)

    return _svg(draw, 9.6, 0.2 * (len(made) + 2 * len({place for place, _, _ in made})) + 1.4)


def retention(dots: Mapping[str, Sequence[tuple[float, float, str]]]) -> bytes:
    """A panel for each setting, a dot for each run."""
    arms = sorted({arm for each in dots.values() for _, _, arm in each})
    looks = {arm: style.look(index) for index, arm in enumerate(arms)}

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(dots), squeeze=False, sharey=True)[0]
        for axes, (setting, each) in zip(panels, dots.items(), strict=True):
            for arm, look in looks.items():
                mine = [(x, y) for x, y, name in each if name == arm]
                if mine:
                    axes.plot(*zip(*mine, strict=True), look.marker, color=look.colour, alpha=0.85, label=arm)
            axes.set_title(setting, loc="left", fontsize=11.5)
            axes.set_xlabel("pointing by words after training")
        panels[0].set_ylabel("unseen instructions followed, %")
        handles = {line.get_label(): line for axes in panels for line in axes.lines}
        figure.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=9.5)

    return _svg(draw, 9.6, 3.9)


def _svg(draw: Callable[[Any], None], width: float, height: float) -> bytes:
    """The same bytes for the same drawing."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**plots.SETTINGS, "svg.hashsalt": "apt"}):
        figure, sink = Figure(figsize=(width, height)), io.BytesIO()
        draw(figure)
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def told(svg: bytes) -> list[str]:
    """The texts of a picture, in order."""
    from xml.etree import ElementTree

    every = ElementTree.parse(io.BytesIO(svg)).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(each.itertext()).strip() for each in every]
