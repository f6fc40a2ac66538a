"""The page of a trial: what to take, the command to paste, and the numbers behind it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from apt_plugin import report
from apt_plugin.listen.scores import Score
from apt_plugin.trial.answer import margin, more, retention, times
from apt_plugin.trial.pick import HINT, RULE, Pick, Tried, differs

ABOUT = (
    "One policy, trained in several ways for a short time on the same episodes, and asked on others whether it "
    "listens: each frame under its own instruction and under others, with the same noise."
)
NONE = "no difference"
ONE_RUN = (
    "Each way was trained once: the intervals are over episodes, and the luck of a training run is not in them. "
    "--trial.seeds 3 trains each three times."
)


def sections(
    tried: Sequence[Tried], pick: Pick | None, command: str, facts: Mapping[str, str], lacking: Mapping[str, str],
    pairs: Sequence[int], settings: Mapping[str, Any],
) -> list[Any]:  # fmt: skip
    """
    Args:
        pick: None where no way has answered; command: of the way to take, as a shell reads it.
        lacking: way -> why it was not tried, or has not answered. pairs: episodes of unseen pairs.
    """
    title = report.Title("Which way of training makes this policy listen?", facts, ABOUT)
    if pick is None:
        return [title, report.Verdict(["No way of training has answered."]), _lacking(lacking)]
    about = f"{pick.way.title}: {pick.way.about}. All of your steps, all of your episodes."
    once = [ONE_RUN] if len(tried[0].answers) == 1 else []
    return [
        title,
        report.Verdict([*pick.sentences, *once, HINT]),
        report.Code("The command to take", about, command),
        _ways(tried),
        *_curves(tried),
        *_compared(tried, pick),
        *(_unseen(tried, pairs) if pairs else []),
        *([_lacking(lacking)] if lacking else []),
        report.Table("The rule", RULE, ["word", "a line on it"], [
            *([each.way.title, f"{each.way.about}."] for each in tried),
            ["margin", "The logarithm of how many times as large the loss is under instructions that mean "
             "something else. 0: deaf."],
            ["VLM kept", "How far it tells instructions apart as the base does: 1 as the base, 0 not at all."],
            ["loss", "On the demonstrated actions of held-out episodes, under their own instruction. Can it move?"],
            ["seconds", "Of one training run, the start of its processes and the checks before it included."],
        ]),
        report.Settings(settings),
    ]  # fmt: skip


def _ways(tried: Sequence[Tried]) -> Any:
    rows = [
        [
            each.way.title,
            *_spread(each.margin),
            *_spread(each.loss),
            retention(each.answers),
            each.answers[0].verdict,
            round(each.seconds),
        ]
        for each in tried
    ]
    note = "Margin and loss with 95 % intervals, bootstrap over held-out episodes. The simplest way stands first."
    header = ["way", "margin", "low", "high", "loss", "low", "high", "VLM kept", "listen says", "seconds"]
    return report.Table("The ways", note, header, rows)


def _curves(tried: Sequence[Tried]) -> list[Any]:
    """The margin on the way, where it was asked there."""
    lines = {}
    for each in tried:
        scores = [(step, margin([said])) for step, said in each.curve]
        known = [(step, score.value) for step, score in scores if score is not None]
        if known:
            lines[each.way.title] = ([step for step, _ in known], [value for _, value in known])
    note = "On the same held-out frames, of each way's first run. All but the last points are of unfinished schedules."
    return [report.Curves("Margin over the steps of a run", note, lines, y_label="margin")] if lines else []


def _compared(tried: Sequence[Tried], pick: Pick) -> list[Any]:
    """Every way against the one that is taken."""
    (taken,) = [each for each in tried if each.way == pick.way]
    rows = []
    for each in tried:
        gap, by = more(each.answers, taken.answers), times(each.answers, taken.answers)
        if each is not taken and gap is not None:
            says = "listens more" if differs(each, taken) else "listens less" if differs(taken, each) else NONE
            rows.append([each.way.title, *_spread(gap), *_spread(by), says])
    note = f"Margin minus that of {pick.way.title}, and loss over its loss, on the same frames."
    header = ["way", "margin", "low", "high", "loss", "low", "high", "it says"]
    return [report.Table("Against the way to take", note, header, rows)] if rows else []


def _unseen(tried: Sequence[Tried], pairs: Sequence[int]) -> list[Any]:
    rows = [[each.way.title, *_spread(margin([a.among(pairs) for a in each.answers]))] for each in tried]
    note = "Margins on scenes and instructions that training saw, but never together. The harder question."
    return [report.Table("Unseen pairs", note, ["way", "margin", "low", "high"], rows)]


def _lacking(lacking: Mapping[str, str]) -> Any:
    return report.Table("Not compared", "", ["way", "why"], [list(pair) for pair in lacking.items()])


def _spread(score: Score | None) -> list[float | None]:
    return [None] * 3 if score is None else [score.value, score.low, score.high]


def lengths(steps: Mapping[str, int]) -> str:
    """Steps of the runs of each way, as one number where they are all alike."""
    if len(set(steps.values())) == 1:
        return f"{next(iter(steps.values())):,}"
    return ", ".join(f"{name} {count:,}" for name, count in steps.items())


def shell(argv: Sequence[str]) -> str:
    """A command as somebody pastes it: a flag a line."""
    lines: list[str] = []
    for word in argv:
        if word.startswith("--") or not lines:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(lines)
