"""What a report can hold. `data()` checks a section and turns it into plain values, the only thing shown later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apt_plugin.errors import AptError, did_you_mean
from apt_plugin.report.png import encode
from apt_plugin.report.stats import Count, check, newcombe, paired, wilson
from apt_plugin.report.values import is_number, plain

Line = tuple[Any, Any]  # (x, y), each a sequence of numbers

# What is guaranteed (README), for readers who have never seen it: number -> (name, what it promises).
CONTRACTS = {
    "1": ("No leak", "While the prior is trained, nothing that it computes depends on the instruction."),
    "2": ("Exact switch", "At its first step Stage 2 acts exactly as the prior did, instruction or not."),
    "3": ("Alive", "After one step everything that Stage 2 added can learn: no gradient is stuck at zero."),
    "4": ("Frozen is frozen", "The vision-language model that was to stay fixed has the same bytes as before."),
    "5": ("Host keys untouched", "Stock weights load as they are; without the apt_ tensors the checkpoint is stock."),
    "6": ("Served, or refused loudly", "The host serves this checkpoint with the plugin, and refuses it without."),
    "7": ("Inert until named", "Having the plugin installed or imported changes nothing in the host."),
}


@dataclass(frozen=True)
class Title:
    text: str
    facts: Mapping[str, str] = field(default_factory=dict)  # shown under the title: host, policy, steps, date
    about: str = ""  # what the page is about; the recipe where empty

    def data(self) -> dict[str, Any]:
        about = {"about": self.about} if self.about else {}
        return {"kind": "title", "text": self.text, "facts": plain(self.facts)} | about


@dataclass(frozen=True)
class Verdict:
    sentences: Sequence[str]  # plain words first; `compare` writes them

    def data(self) -> dict[str, Any]:
        return {"kind": "verdict", "sentences": list(self.sentences)}


@dataclass(frozen=True)
class Curves:
    title: str
    note: str  # what the lines are, in one sentence
    series: Mapping[str, Line]
    x_label: str = "optimiser step"
    y_label: str = "loss"
    marks: Mapping[str, float] = field(default_factory=dict)  # vertical lines: "switch to Stage 2" -> x

    def data(self) -> dict[str, Any]:
        lines = [_line(f"{self.title}: {name}", line) | {"name": name} for name, line in self.series.items()]
        marks = [{"name": name, "x": plain(x)} for name, x in self.marks.items()]
        labels = {"x_label": self.x_label, "y_label": self.y_label}
        return {"kind": "curves", "title": self.title, "note": self.note, "series": lines, "marks": marks} | labels


@dataclass(frozen=True)
class Scatter:
    """Points of several groups, one mark each: group -> (x, y) pairs."""

    title: str
    note: str
    groups: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str = ""
    y_label: str = ""

    def data(self) -> dict[str, Any]:
        lines = [
            _line(f"{self.title}: {name}", ([x for x, _ in each], [y for _, y in each])) | {"name": name}
            for name, each in self.groups.items()
        ]
        labels = {"x_label": self.x_label, "y_label": self.y_label}
        return {"kind": "scatter", "title": self.title, "note": self.note, "series": lines} | labels


@dataclass(frozen=True)
class Proofs:
    """Each row maps contract (1 to 7, or any name), what, passed (None: not run) and, if any, value, limit, note."""

    rows: Sequence[Mapping[str, Any]]
    title: str = "What was proven about this run"

    def data(self) -> dict[str, Any]:
        known = ("contract", "what", "value", "limit", "passed", "note")
        rows = []
        for row in self.rows:
            for name in row:
                if name not in known:
                    raise AptError(f"Unknown field {name!r} of a proof.{did_you_mean(name, known)}")
            if missing := [name for name in ("contract", "what", "passed") if name not in row]:
                raise AptError(f"A proof lacks {', '.join(missing)}: {dict(row)}.")
            full = {"value": "", "limit": "", "note": "", **row}
            clean = {name: plain(full[name]) for name in known}
            clean["contract"] = str(clean["contract"])
            if not (clean["passed"] is None or isinstance(clean["passed"], bool)):
                raise AptError(f"Proof {clean['what']!r}: passed is {clean['passed']!r}; write True, False or None.")
            if clean["passed"] and clean["value"] is None:  # a report of hours of training is not lost over it
                clean["passed"] = False
                clean["note"] = f"{clean['note']} (was said to hold, but {full['value']} proves nothing)".strip()
            rows.append(clean)
        return {"kind": "proofs", "title": self.title, "rows": rows}


@dataclass(frozen=True)
class Gates:
    """Openness of each fusion layer's gate over Stage 2, and where it ended.

    Args:
        series: layer -> (steps, gate values), first layer first.
        final: layer -> last value; None takes the last point of each line.
        start: the value that gates begin at: 0.5 (interleaved), 0 (host), None to leave it out.
    """

    series: Mapping[str, Line]
    final: Mapping[str, float] | None = None
    start: float | None = None
    title: str = "How far the gates opened"
    note: str = ""

    def data(self) -> dict[str, Any]:
        lines = [_line(f"{self.title}: {name}", line) | {"name": str(name)} for name, line in self.series.items()]
        for name, line in zip(self.series, lines, strict=True):
            line["final"] = line["last"] if self.final is None else plain(self.final.get(name))
        words = {"title": self.title, "note": self.note}
        return {"kind": "gates", "series": lines, "start": plain(self.start)} | words


@dataclass(frozen=True)
class Rates:
    """Success rates.

    Args:
        rows: (arm, split) -> (successes, episodes), all runs of the arm together.
        runs: (arm, split) -> the same for each training run, in the order of their seeds, where there were several.
        reference: an arm that all others are compared with, split by split.
        glossary: what an arm or a split is, in plain words.
    """

    title: str
    note: str
    rows: Mapping[tuple[str, str], Count]
    runs: Mapping[tuple[str, str], Sequence[Count]] = field(default_factory=dict)
    reference: str = ""
    glossary: Mapping[str, str] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        if unknown := set(self.runs) - set(self.rows):
            raise AptError(f"{self.title}: runs are given for {sorted(unknown)}, which rows lacks.")
        rows = []
        for (arm, split), count in self.rows.items():
            successes, n = check(count, f"{arm}, {split}")
            runs = [check(run, f"{arm}, {split}") for run in self.runs.get((arm, split), ())]
            if runs and (sum(s for s, _ in runs), sum(n for _, n in runs)) != (successes, n):
                raise AptError(f"{arm}, {split}: the runs {runs} do not add up to {successes} of {n}.")
            low, high = wilson(successes, n) if n else (None, None)
            row = {"arm": arm, "split": split, "successes": successes, "episodes": n, "low": low, "high": high}
            row["rate"] = successes / n if n else None
            row["runs"] = [{"successes": s, "episodes": n, "rate": s / n if n else None} for s, n in runs]
            rows.append(row)
        arms, splits = (list(dict.fromkeys(row[name] for row in rows)) for name in ("arm", "split"))
        words = {"title": self.title, "note": self.note, "glossary": plain(self.glossary)}
        orders: dict[str, Any] = {"arms": arms, "splits": splits, "reference": self.reference}
        orders["comparisons"] = self._comparisons(arms, splits)
        return {"kind": "rates", "rows": rows} | words | orders

    def _comparisons(self, arms: list[str], splits: list[str]) -> list[dict[str, Any]]:
        """Every arm against the reference: over paired training runs where both have them, else over episodes."""
        if not self.reference:
            return []
        if self.reference not in arms:
            raise AptError(f"{self.title}: reference is {self.reference!r}.{did_you_mean(self.reference, arms)}")
        found = []
        for ours in ((arm, split) for arm in arms for split in splits if arm != self.reference):
            theirs = (self.reference, ours[1])
            runs, their_runs = self.runs.get(ours, ()), self.runs.get(theirs, ())
            if not all(self.rows.get(key, (0, 0))[1] for key in (ours, theirs)):
                continue
            if len(runs) == len(their_runs) > 1 and all(n for _, n in (*runs, *their_runs)):
                difference = paired(runs, their_runs)
            else:
                difference = newcombe(self.rows[ours], self.rows[theirs])
            numbers = plain(dataclasses.asdict(difference))
            found.append({"arm": ours[0], "split": ours[1], "verdict": difference.verdict} | numbers)
        return found


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def data(self) -> dict[str, Any]:
        for row in self.rows:
            if len(row) != len(self.header):
                raise AptError(f"{self.title}: {list(row)} has {len(row)} cells, the header {len(self.header)}.")
        words = {"title": self.title, "note": self.note}
        return {"kind": "table", "header": [str(name) for name in self.header], "rows": plain(list(self.rows))} | words


@dataclass(frozen=True)
class Code:
    """Something to paste, as it stands."""

    title: str
    note: str
    text: str

    def data(self) -> dict[str, Any]:
        return {"kind": "code", "title": self.title, "note": self.note, "text": self.text}


@dataclass(frozen=True)
class Strip:
    """One row of pictures: frames [H, W, 3] uint8, with a label under each where `labels` has one."""

    caption: str
    frames: Sequence[np.ndarray]
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Frames:
    title: str
    note: str
    strips: Sequence[Strip]

    def data(self) -> dict[str, Any]:
        strips = []
        for strip in self.strips:
            if len(strip.labels) > len(strip.frames):
                raise AptError(f"{strip.caption}: {len(strip.labels)} labels for {len(strip.frames)} frames.")
            labels = [*map(str, strip.labels), *[""] * (len(strip.frames) - len(strip.labels))]
            pictures = [
                {"label": label, "width": frame.shape[1], "height": frame.shape[0], "png": encode(frame)}
                for frame, label in zip(strip.frames, labels, strict=True)
            ]
            strips.append({"caption": strip.caption, "frames": pictures})
        return {"kind": "frames", "title": self.title, "note": self.note, "strips": strips}


@dataclass(frozen=True)
class Settings:
    values: Mapping[str, Any]  # {"recipe": asdict(recipe), "host": {...}, "versions": {...}}

    def data(self) -> dict[str, Any]:
        return {"kind": "settings", "values": plain(self.values)}


Section = Title | Verdict | Curves | Scatter | Proofs | Gates | Rates | Table | Code | Frames | Settings


def _line(name: str, line: Line) -> dict[str, Any]:
    """A line and the figures that its table shows; points that are not finite become gaps (null)."""
    x, y = plain(list(line[0])), plain(list(line[1]))
    if len(x) != len(y) or not all(map(is_number, x)) or not all(v is None or is_number(v) for v in y):
        raise AptError(f"{name}: {len(x)} x and {len(y)} y; write as many of both, numbers, and every x finite.")
    finite = [value for value in y if value is not None]
    ends = {"first": finite[0], "last": finite[-1]} if finite else {"first": None, "last": None}
    bounds = {"lowest": min(finite, default=None), "highest": max(finite, default=None)}
    return {"x": x, "y": y, "points": len(y), "gaps": len(y) - len(finite)} | ends | bounds
