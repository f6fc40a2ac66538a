"""How each kind of question is answered from the results: one plain sentence, and the sentences it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from apt_compare.board import TRAINED, Board
from apt_compare.plan import Configs
from apt_compare.stats import Estimate
from apt_compare.tuning import CLOSE

FEW = 4  # comparisons that a sentence can name one by one
ENOUGH = 3  # seeds below which a sentence says that it is a first look
NOT_RUN = "Not run."
Question = Mapping[str, Any]


class Answer(NamedTuple):
    """short: one sentence; told: what it rests on, comparison by comparison."""

    short: str
    told: list[str]


def points(estimate: Estimate) -> str:
    """+12 points (3 to 21, 5 seeds)"""
    low, high = (round(100 * v) for v in (estimate.low, estimate.high))
    seeds = f"{estimate.seeds} seed{'s' if estimate.seeds > 1 else ''}"
    return f"{100 * estimate.value:+.0f} points ({low:+d} to {high:+d}, {seeds})"


def verdict(estimate: Estimate) -> str:
    if estimate.seeds < ENOUGH:
        return "too few seeds to say"
    return "better" if estimate.low > 0 else "worse" if estimate.high < 0 else "no difference shown"


def names(value: Any) -> Sequence[str]:
    return [value] if isinstance(value, str) else list(value)


def splits_of(board: Board, question: Question) -> list[str]:
    told = question.get("splits", "unseen")
    if told == "unseen":
        return board.unseen
    if told == "trained":
        return [split for split in board.splits if split in TRAINED]
    return [split for split in told if split in board.splits]


def _counted(found: Mapping[tuple[str, str], Estimate]) -> str:
    """The comparisons of an arm by (setting, rival): each by itself where they are few, else counted."""
    if len(found) <= FEW:
        return ", ".join(
            f"{100 * each.value:+.0f} against {arm} in {setting} ({verdict(each)})"
            for (setting, arm), each in found.items()
        )
    said = ", ".join(f"{what} in {number}" for what, number in Counter(map(verdict, found.values())).most_common())
    low, high = (100 * pick(each.value for each in found.values()) for pick in (min, max))
    return f"of {len(found)} comparisons {said}; {low:+.0f} to {high:+.0f} points"


def compare(board: Board, question: Question, configs: Configs) -> Answer:
    """Ours against theirs in each setting."""
    told, budget, splits = [], question.get("budget", "steps"), splits_of(board, question)
    missing: list[str] = []
    every: dict[str, dict[tuple[str, str], Estimate]] = {}
    for setting in question["settings"]:
        for theirs in names(question["theirs"]):
            for ours in names(question["ours"]):
                if ours == theirs:
                    continue
                found = board.difference(setting, budget, ours, theirs, splits)
                if found is None:
                    missing.append(f"{setting}: {ours} against {theirs}")
                    continue
                a, b = (board.rate(setting, budget, arm, splits) for arm in (ours, theirs))
                assert a is not None
                assert b is not None
                every.setdefault(ours, {})[setting, theirs] = found
                told.append(
                    f"{setting}: {ours} {100 * a.value:.0f} %, {theirs} {100 * b.value:.0f} % at equal {budget}: "
                    f"{points(found)}: {verdict(found)}."
                )
    if missing:
        which = "; ".join(missing) if len(missing) <= 3 else f"{len(missing)} comparisons"
        told.append(f"Not run at equal {budget}: {which}.")
    if not every:
        return Answer(NOT_RUN, told or [NOT_RUN])
    return Answer(" ".join(f"{ours}: {_counted(each)}." for ours, each in every.items()), told)


def best(board: Board, question: Question, configs: Configs) -> Answer:
    """Arms of one setting by success, against the first."""
    told, short, budget, splits = [], [], question.get("budget", "steps"), splits_of(board, question)
    first, *others = names(question["arms"])
    for setting in question["settings"]:
        have = {a: made for a in (first, *others) if (made := board.rate(setting, budget, a, splits)) is not None}
        if len(have) < 2 or first not in have:
            told.append(f"{setting}: not run.")
            continue
        ranked = sorted(have, key=lambda arm: -have[arm].value)
        shown = {}
        for arm in ranked:
            found = board.difference(setting, budget, arm, first, splits) if arm != first else None
            if found is not None and found.seeds >= ENOUGH and found.excludes_zero:
                shown[arm] = found
        listed = "; ".join(f"{arm} {points(found)}" for arm, found in shown.items()) or "no difference shown"
        absent = [arm for arm in (first, *others) if arm not in have]
        told.append(
            f"{setting}: {', '.join(f'{arm} {100 * have[arm].value:.0f} %' for arm in ranked)}. Against {first}: "
            f"{listed}." + (f" Not run: {', '.join(absent)}." if absent else "")
        )
        above = [f"{arm} {points(found)}" for arm, found in shown.items() if found.value > 0]
        short.append(f"{setting}: " + (f"better than {first}: {above[0]}" if above else f"nothing better than {first}"))
    return Answer("; ".join(short) + "." if short else NOT_RUN, told)


def places(board: Board, question: Question) -> dict[str, list[tuple[float, float]]]:
    """Arm -> (place on the axis of a trend, mean success) where it was run, in the order of the axis."""
    budget, splits = question.get("budget", "steps"), splits_of(board, question)
    out: dict[str, list[tuple[float, float]]] = {}
    for arm in names(question["arms"]):
        for setting, place in sorted(question["along"].items(), key=lambda each: each[1]):
            made = board.rate(setting, budget, arm, splits)
            if made is not None:
                out.setdefault(arm, []).append((float(place), made.value))
    return out


def trend(board: Board, question: Question, configs: Configs) -> Answer:
    """Each arm minus the first, place by place."""
    told, budget, splits = [], question.get("budget", "steps"), splits_of(board, question)
    first, *others = names(question["arms"])
    along = sorted(question["along"].items(), key=lambda each: each[1])
    short = []
    for arm in others:
        found = {place: board.difference(setting, budget, arm, first, splits) for setting, place in along}
        each = [f"{place:g} {'not run' if made is None else points(made)}" for place, made in found.items()]
        have = {place: made for place, made in found.items() if made is not None}
        if len(have) < 2:
            order = "not enough was run to tell"
        else:
            turns = {"better", "worse"} <= {verdict(made) for made in have.values()}
            order = "the ordering changes" if turns else "the ordering does not turn round"
            values = ", ".join(f"{100 * made.value:+.0f} at {place:g}" for place, made in have.items())
            short.append(f"{arm} minus {first}: {values}: {order}.")
        told.append(f"{arm} minus {first} at {question['axis']} {'; '.join(each)}: {order}.")
    return Answer(" ".join(short) or NOT_RUN, told)


def fair(tuned: Mapping[str, Any], configs: Configs) -> Answer:
    """What `tune` kept (setting -> arm -> rates with seen success and training loss), beside the rate of the runs."""
    told, good, bad = [], [], []
    for setting, arms in tuned.items():
        for arm, found in arms.items():
            tried = ", ".join(
                f"{row['rate']:g}: {100 * row['seen']:.0f} %, loss {row['loss']:.3f}" for row in found["tried"]
            )
            ran = configs.rate(configs.settings[setting], configs.arms[arm])
            own = next((row for row in found["tried"] if row["rate"] == ran), None)
            top = next(row for row in found["tried"] if row["rate"] == found["rate"])
            as_good = own is not None and own["seen"] >= top["seen"] - CLOSE
            if own is None:
                what = "a rate that the sweep did not try"
            elif own is top:
                what = "the best on the seen split"
            elif as_good:
                what = f"as good on the seen split as the best, {found['rate']:g},"
            else:
                what = f"worse by {100 * (top['seen'] - own['seen']):.0f} points than the best, {found['rate']:g},"
            (good if as_good else bad).append(arm)
            end = " (the best is an end of the sweep)" if top in (found["tried"][0], found["tried"][-1]) else ""
            told.append(f"{setting}: {arm} runs at {ran:g}, {what} of {tried}{end}.")
    if not told:
        return Answer(NOT_RUN, [NOT_RUN])
    parts = [f"{', '.join(good)}: as good on seen as the best rate of a sweep"] if good else []
    parts += [f"{', '.join(bad)}: not at the best of the rates tried"] if bad else []
    return Answer("; ".join(parts) + ".", told)
