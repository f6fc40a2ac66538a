"""A plain sentence per question, computed from the results; "not run" where they are missing.

A question is data (`configs/compare/questions.yaml`):

    - ask: Does APT beat stock training at equal steps?
      kind: compare            # ours against theirs, in each setting
      ours: apt
      theirs: [stock_frozen, null_k4]
      settings: [random, fixed]
      budget: steps            # left out: steps
      splits: unseen           # or names of splits; left out: unseen
    - ask: Which gate?
      kind: best               # arms in one setting, against the first
      arms: [apt, apt_gate_head]
      settings: [random]
    - ask: Is the goal reached?
      kind: goal               # 10 points over stock and over the best baseline on every unseen split
      arms: [apt_contrast]
      settings: [random]
      points: 10
    - ask: Is the ordering stable when training is longer?
      kind: trend              # each arm minus the first along a knob; the report plots their success
      arms: [stock_frozen, apt]
      axis: steps
      along: {random: 1500, long: 6000}
    - ask: Is each baseline a fair one?
      kind: fair               # the best rate of its sweep against the rate it ran under
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apt_plugin.compare.board import TRAINED, Board
from apt_plugin.compare.plan import Configs
from apt_plugin.compare.stats import Estimate
from apt_plugin.compare.tuning import CLOSE
from apt_plugin.errors import AptError, choose, did_you_mean

FIELDS = ("ask", "kind", "ours", "theirs", "arms", "settings", "budget", "splits", "points", "axis", "along")
KINDS = ("compare", "best", "goal", "trend", "fair")
ENOUGH = 3  # seeds below which a sentence says that it is a first look


def answers(board: Board, configs: Configs, tuned: Mapping[str, Any] | None = None) -> list[tuple[str, list[str]]]:
    """(question, sentences) in the order of the file."""
    kinds = {"compare": _compare, "best": _best, "goal": _goal, "trend": _trend}
    out = []
    for number, question in enumerate(configs.questions):
        check(question, number)
        if question["kind"] == "fair":
            out.append((question["ask"], _fair(tuned or {}, configs)))
        else:
            sentences = kinds[question["kind"]](board, question, configs)
            out.append((question["ask"], sentences or ["Not run."]))
    return out


def check(question: Any, number: int) -> None:
    """
    Raises:
        AptError: no mapping, an unknown field or kind.
    """
    if not isinstance(question, Mapping) or "ask" not in question:
        raise AptError(f"questions.yaml, entry {number + 1}: write a mapping with ask: and kind:.")
    for key in question:
        if key not in FIELDS:
            raise AptError(f"questions.yaml, entry {number + 1}: unknown field {key!r}.{did_you_mean(key, FIELDS)}")
    choose(f"questions.yaml, entry {number + 1}: kind", question.get("kind", ""), KINDS)


def points(estimate: Estimate) -> str:
    """+12 points (3 to 21, 5 seeds)"""
    low, high = (round(100 * v) for v in (estimate.low, estimate.high))
    seeds = f"{estimate.seeds} seed{'s' if estimate.seeds > 1 else ''}"
    return f"{100 * estimate.value:+.0f} points ({low:+d} to {high:+d}, {seeds})"


def verdict(estimate: Estimate) -> str:
    if estimate.seeds < ENOUGH:
        return "too few seeds to say"
    return "better" if estimate.low > 0 else "worse" if estimate.high < 0 else "no difference shown"


def _splits(board: Board, question: Mapping[str, Any]) -> list[str]:
    told = question.get("splits", "unseen")
    if told == "unseen":
        return board.unseen
    if told == "trained":
        return [split for split in board.splits if split in TRAINED]
    return [split for split in told if split in board.splits]


def _compare(board: Board, question: Mapping[str, Any], configs: Configs) -> list[str]:
    out, budget, splits = [], question.get("budget", "steps"), _splits(board, question)
    missing: list[str] = []
    for setting in question["settings"]:
        for theirs in _names(question["theirs"]):
            for ours in _names(question["ours"]):
                found = board.difference(setting, budget, ours, theirs, splits)
                if found is None:
                    missing.append(f"{setting}: {ours} against {theirs}")
                    continue
                a, b = (board.rate(setting, budget, arm, splits) for arm in (ours, theirs))
                assert a is not None
                assert b is not None
                out.append(
                    f"{setting}: {ours} {100 * a.value:.0f} %, {theirs} {100 * b.value:.0f} % at equal {budget}: "
                    f"{points(found)}: {verdict(found)}."
                )
    if missing:
        told = "; ".join(missing) if len(missing) <= 3 else f"{len(missing)} comparisons"
        out.append(f"Not run at equal {budget}: {told}.")
    return out


def _best(board: Board, question: Mapping[str, Any], configs: Configs) -> list[str]:
    out, budget, splits = [], question.get("budget", "steps"), _splits(board, question)
    arms = _names(question["arms"])
    for setting in question["settings"]:
        have = {arm: made for arm in arms if (made := board.rate(setting, budget, arm, splits)) is not None}
        if len(have) < 2:
            out.append(f"{setting}: not run.")
            continue
        ranked = sorted(have, key=lambda arm: -have[arm].value)
        order = ", ".join(f"{arm} {100 * have[arm].value:.0f} %" for arm in ranked)
        sentence = f"{setting}: {order}."
        told = []
        if arms[0] in have:
            for arm in ranked:
                found = board.difference(setting, budget, arm, arms[0], splits) if arm != arms[0] else None
                if found is not None and found.seeds >= ENOUGH and found.excludes_zero:
                    told.append(f"{arm} {points(found)}")
            sentence += f" Against {arms[0]}: {'; '.join(told) if told else 'no difference shown'}."
        absent = [arm for arm in arms if arm not in have]
        out.append(sentence + (f" Not run: {', '.join(absent)}." if absent else ""))
    return out


def trend(board: Board, question: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Arm -> (place on the axis, mean success) where it was run, in the order of the axis."""
    budget, splits = question.get("budget", "steps"), _splits(board, question)
    out: dict[str, list[tuple[float, float]]] = {}
    for arm in _names(question["arms"]):
        for setting, place in sorted(question["along"].items(), key=lambda each: each[1]):
            made = board.rate(setting, budget, arm, splits)
            if made is not None:
                out.setdefault(arm, []).append((float(place), made.value))
    return out


def _trend(board: Board, question: Mapping[str, Any], configs: Configs) -> list[str]:
    """Each arm minus the first, place by place."""
    out, budget, splits = [], question.get("budget", "steps"), _splits(board, question)
    first, *others = _names(question["arms"])
    along = sorted(question["along"].items(), key=lambda each: each[1])
    for arm in others:
        found = {place: board.difference(setting, budget, arm, first, splits) for setting, place in along}
        told = [f"{place:g} {'not run' if each is None else points(each)}" for place, each in found.items()]
        signs = [verdict(each) for each in found.values() if each is not None]
        if len(signs) < 2:
            order = "not enough was run to tell"
        else:
            order = "the ordering changes" if {"better", "worse"} <= set(signs) else "the ordering does not turn round"
        out.append(f"{arm} minus {first} at {question['axis']} {'; '.join(told)}: {order}.")
    return out


def _goal(board: Board, question: Mapping[str, Any], configs: Configs) -> list[str]:
    """The best baseline is chosen by its mean over the unseen splits; the bar stands on every split by itself. Two
    targets in turn (`chained`) count where some demonstration shows it: elsewhere every arm is at the floor."""
    out, budget, need = [], question.get("budget", "steps"), question.get("points", 10) / 100
    for setting in question["settings"]:
        chains = bool(configs.settings[setting].world.get("chained"))
        unseen = [split for split in board.unseen if chains or split != "chained"]
        bar = "every unseen split" + ("" if chains else " but chained, which nothing in this setting shows")
        have = board.arms(setting, budget)
        rivals = [a for a in have if _group(a, configs) in ("baseline", "control")]
        if not rivals or not any(arm in have for arm in _names(question["arms"])):
            out.append(f"{setting}: not run.")
            continue
        mean = {a: made.value for a in have if (made := board.rate(setting, budget, a, unseen)) is not None}
        best = max((a for a in rivals if a in mean), key=lambda a: mean[a])
        for arm in _names(question["arms"]):
            if arm not in have:
                out.append(f"{setting}: {arm}: not run.")
                continue
            short = []
            for theirs in dict.fromkeys(("stock_full", "stock_frozen", best)):
                for split in unseen:
                    found = board.difference(setting, budget, arm, theirs, [split])
                    if found is None or not (found.value >= need and found.low > 0):
                        short.append(f"{split} over {theirs} {'not run' if found is None else points(found)}")
            total = len(unseen) * len(dict.fromkeys(("stock_full", "stock_frozen", best)))
            if short:
                out.append(
                    f"{setting}: {arm} does not reach {100 * need:.0f} points over stock and over the best baseline "
                    f"({best}) on {bar}: {len(short)} of {total} comparisons fall short, e.g. {short[0]}."
                )
            else:
                out.append(f"{setting}: {arm} reaches the goal over stock and over {best} on {bar}.")
    return out


def _group(arm: str, configs: Configs) -> str:
    found = configs.arms.get(arm.partition(" @")[0])
    return found.group if found else ""


def _fair(tuned: Mapping[str, Any], configs: Configs) -> list[str]:
    """What `tune` kept (setting -> arm -> rates with seen success and training loss), beside the rate of the runs."""
    out = []
    for setting, arms in tuned.items():
        for arm, found in arms.items():
            tried = ", ".join(
                f"{row['rate']:g}: {100 * row['seen']:.0f} %, loss {row['loss']:.3f}" for row in found["tried"]
            )
            ran = configs.rate(configs.settings[setting], configs.arms[arm])
            own = next((row for row in found["tried"] if row["rate"] == ran), None)
            best = next(row for row in found["tried"] if row["rate"] == found["rate"])
            if own is None:
                told = "a rate that the sweep did not try"
            elif own is best:
                told = "the best on the seen split"
            elif own["seen"] >= best["seen"] - CLOSE:
                told = f"as good on the seen split as the best, {found['rate']:g},"
            else:
                told = f"worse by {100 * (best['seen'] - own['seen']):.0f} points than the best, {found['rate']:g},"
            end = " (the best is an end of the sweep)" if best in (found["tried"][0], found["tried"][-1]) else ""
            out.append(f"{setting}: {arm} runs at {ran:g}, {told} of {tried}{end}.")
    return out or ["Not run."]


def _names(value: Any) -> Sequence[str]:
    return [value] if isinstance(value, str) else list(value)
