"""Which way to take. The rule is written out on the page; how often it is right: examples/compare/calibration.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from apt_plugin.listen.scores import Score
from apt_plugin.trial.answer import Answer, agree, loss, margin, more, same_unit, times
from apt_plugin.trial.ways import Way

# Held-out loss, over the lowest, from which a way listens but cannot move. A trained VLM learns its demonstrations by
# heart, so a limit of 1.1 removes better ways: of 25 cases 10 were right with it, 20 with this one or without any.
MUCH = 3.0
RULE = (
    f"A way whose loss on held-out actions is surely more than {MUCH:g} times the lowest is no candidate, however well "
    "it listens. Of the others the largest margin wins. Two differ where the 95 % interval of their difference, on the "
    "same frames, excludes zero, and every training run says the same; among those that do not differ from the best, "
    "the simplest is taken: the first in the table."
)
UNITS = "The loss of {} is in another unit (its first stage read data with other statistics), so it is not compared."
HINT = (
    "This pick is a hint: a short run's best way is not always the best after the full one. How often it was, where "
    "every way could be trained in full, and which ways look better here than they end, stands in examples/trial.md."
)


@dataclass(frozen=True)
class Tried:
    """A way with what its training runs answered, in the order of their seeds; seconds: of one run, on average;
    curve: (step, what its first run said there), where it was asked on the way."""

    way: Way
    answers: Sequence[Answer]
    seconds: float
    curve: Sequence[tuple[int, Answer]] = ()

    @cached_property
    def margin(self) -> Score | None:
        return margin(self.answers)

    @cached_property
    def loss(self) -> Score | None:
        return loss(self.answers)


@dataclass(frozen=True)
class Pick:
    """The way to take, and why; `tied`: those that do not differ from the best; `slow`: those that cannot move."""

    way: Way
    tied: list[Tried]
    slow: list[tuple[Tried, Score]]
    sentences: list[str]


def pick(tried: Sequence[Tried]) -> Pick:
    """
    Args:
        tried: at least one, the simplest first, all on the same frames.
    """
    if len(tried) == 1:
        said = f"Only {tried[0].way.title} has answered, so nothing can be compared."
        return Pick(tried[0].way, list(tried), [], [said])
    asked = [each for each in tried if each.margin is not None]
    if len(asked) < len(tried):
        said = "Too few frames could be asked under other words: nothing can be said. Raise --trial.frames."
        return Pick(tried[0].way, list(tried), [], [said])
    slow = _slow(tried)
    able = [each for each in tried if each not in [other for other, _ in slow]]
    best = max(able, key=_size)
    tied = [each for each in able if each is best or not differs(best, each)]
    taken = tied[0]
    odd = [each.way.title for each in tried if not same_unit(each.answers, tried[0].answers)]
    units = [UNITS.format(_listed(odd))] if odd else []
    return Pick(taken.way, tied, slow, [*_said(best, tied, able), *[_cannot(each, by) for each, by in slow], *units])


def differs(ours: Tried, others: Tried) -> bool:
    """Whether the first surely listens more."""
    found = more(ours.answers, others.answers)
    return found is not None and found.low > 0 and agree(ours.answers, others.answers)


def _size(each: Tried) -> float:
    found = each.margin
    return -math.inf if found is None else found.value


def _slow(tried: Sequence[Tried]) -> list[tuple[Tried, Score]]:
    out = []
    for each in tried:
        alike = [other for other in tried if same_unit(each.answers, other.answers)]
        lowest = min(alike, key=lambda other: math.inf if (found := other.loss) is None else found.value)
        by = times(each.answers, lowest.answers)
        if each is not lowest and by is not None and by.low > MUCH:
            out.append((each, by))
    return out


def _said(best: Tried, tied: Sequence[Tried], able: Sequence[Tried]) -> list[str]:
    found, taken = best.margin, tied[0]
    assert found is not None
    names = _listed([each.way.title for each in tied])
    if not found.heard:
        first = f"No way listens yet: the largest margin, of {best.way.title}, is {_number(found)}, not above zero."
        return [first, f"So the simplest is taken: {taken.way.title}. A larger --trial.budget may tell them apart."]
    if len(tied) == 1:
        out = [f"{_capital(best.way.title)} listens most: margin {_number(found)}."]
    elif len(tied) == len(able):
        out = [f"No difference was found between {names}.", f"So the simplest is taken: {taken.way.title}."]
    else:
        out = [
            f"No difference was found between the best: {names}.",
            f"So the simplest of them is taken: {taken.way.title}.",
        ]
    for each in able:
        gap = None if each in tied else more(best.answers, each.answers)
        if gap is not None:
            out.append(f"{_capital(best.way.title)} has a larger margin than {each.way.title}, by {_number(gap)}.")
    return out


def _cannot(each: Tried, by: Score) -> str:
    return (
        f"{_capital(each.way.title)} is no candidate: its loss on held-out actions is {by.value:.2f} times the lowest "
        f"({by.low:.2f} to {by.high:.2f})."
    )


def _number(score: Score) -> str:
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
