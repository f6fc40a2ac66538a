"""Rules that pick a way of training by its pilot, and how well they pick. Chosen on one half, reported on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apt_compare.calibration import Ways
from apt_compare.pilots import Case

CLOSE = 0.03  # of success, below the best way's, within which a pick is right
CHOSEN_AT = "tenth"
LIMITS = (1.1, 1.5, 2.0, 3.0)  # held-out loss, over the lowest
STEEP = (0.5, 1.0, 2.0)  # doublings of the steps by which a curve is carried on
OF_PILOTS = ("the trial's rule", *(f"margin carried on by {far:g} doublings" for far in STEEP))
BEFORE = {"tenth": "twentieth", "fifth": "tenth"}  # the pilot with half of the steps
Rule = Callable[[Ways, str], str]
Cases = Mapping[Case, Ways]


def margin(ways: Ways, at: str) -> str:
    """The largest margin."""
    return max(ways, key=lambda name: ways[name].margin[at])


def loss(ways: Ways, at: str) -> str:
    """The lowest loss on held-out actions."""
    return min(ways, key=lambda name: ways[name].loss[at])


def trial(ways: Ways, at: str) -> str:
    """The trial's own, which looks at intervals."""
    return next(name for name, known in ways.items() if known.taken[at])


def able(limit: float) -> Rule:
    """The largest margin among those whose loss is at most so many times the lowest."""

    def picked(ways: Ways, at: str) -> str:
        lowest = min(known.loss[at] for known in ways.values())
        return margin({name: known for name, known in ways.items() if known.loss[at] <= limit * lowest}, at)

    return picked


def ranks(ways: Ways, at: str) -> str:
    """The best place by margin and by loss together."""
    by_margin = np.argsort(np.argsort([-known.margin[at] for known in ways.values()]))
    by_loss = np.argsort(np.argsort([known.loss[at] for known in ways.values()]))
    return list(ways)[int(np.argmin(by_margin + by_loss))]


def carried_on(doublings: float) -> Rule:
    """The largest margin where each way's curve goes on as it went from half of the steps."""

    def picked(ways: Ways, at: str) -> str:
        if at not in BEFORE:
            return margin(ways, at)
        ends = {
            n: known.margin[at] + doublings * (known.margin[at] - known.margin[BEFORE[at]]) for n, known in ways.items()
        }
        return max(ends, key=ends.__getitem__)

    return picked


def always(name: str) -> Rule:
    """The same way whatever the pilots say; the first, where that was not run."""
    return lambda ways, at: name if name in ways else next(iter(ways))


def rules(names: Sequence[str]) -> dict[str, Rule]:
    """Every rule, those that take no pilot last. names: of the ways."""
    return {
        "margin alone": margin, "held-out loss alone": loss, "the trial's rule": trial,
        **{f"margin, loss at most {limit:g} times the lowest": able(limit) for limit in LIMITS},
        "places by margin and loss": ranks,
        **{f"margin carried on by {far:g} doublings": carried_on(far) for far in STEEP},
        **{f"always {name}": always(name) for name in names},
    }  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Of a rule over cases: how many picks were right, and the success that was lost on average, in [0, 1]."""

    right: int
    cases: int
    lost: float

    @property
    def order(self) -> tuple[float, float]:
        """Larger is better."""
        return self.right / max(self.cases, 1), -self.lost


def lost(ways: Ways, name: str) -> float:
    """Success of the best way less that of this one."""
    return max(known.success for known in ways.values()) - ways[name].success


def outcome(rule: Rule, cases: Cases, at: str) -> Outcome:
    """
    Args:
        at: a pilot's budget.
    """
    gaps = [lost(ways, rule(ways, at)) for ways in asked(cases, at).values()]
    # A hundredth of an episode: 3 points are 3 points although floats say 0.030000000000000027.
    return Outcome(sum(gap <= CLOSE + 1e-5 for gap in gaps), len(gaps), float(np.mean(gaps)) if gaps else float("nan"))


def asked(cases: Cases, at: str) -> dict[Case, Ways]:
    """Those with pilots of this budget."""
    return {case: ways for case, ways in cases.items() if all(at in known.margin for known in ways.values())}


def half(cases: Cases, name: str) -> dict[Case, Ways]:
    return {case: ways for case, ways in cases.items() if case.half == name}


def chosen(cases: Cases, pilots_only: bool) -> str:
    """The rule that picks best at `CHOSEN_AT` on the half to choose by; the first of those that do equally well.

    Args:
        pilots_only: leave out those that always take the same way; else take one of them.
    """
    mine = half(cases, "choose")
    names = list(dict.fromkeys(name for ways in cases.values() for name in ways))
    found = {n: rule for n, rule in rules(names).items() if n.startswith("always ") != pilots_only}
    return max(found, key=lambda name: outcome(found[name], mine, CHOSEN_AT).order)


def halved(cases: Cases, at: str) -> tuple[int, int]:
    """(in how many cases the half with the smaller margins holds every way that would be a right pick, cases): what
    ending that half there would have cost."""
    gone = 0
    for ways in (mine := asked(cases, at)).values():
        ranked = sorted(ways, key=lambda name: -ways[name].margin[at])
        gone += all(lost(ways, name) > CLOSE + 1e-5 for name in ranked[: -(-len(ranked) // 2)])
    return gone, len(mine)


def ended(cases: Cases, early: str, late: str) -> tuple[int, int, int]:
    """Had the half of the ways with the smaller margins ended early: (in how many cases it holds the way with the
    largest margin later, in how many the way with the best full run, cases)."""
    picked = best = 0
    for ways in (mine := asked(asked(cases, early), late)).values():
        ranked = sorted(ways, key=lambda name: -ways[name].margin[early])
        gone = ranked[-(-len(ranked) // 2) :]
        picked += margin(ways, late) in gone
        best += max(ways, key=lambda name: ways[name].success) in gone
    return picked, best, len(mine)


def places(cases: Cases, at: str, name: str) -> tuple[float, float]:
    """A way's mean place by the pilot's margin and by the success of full runs, 1 the best."""
    by_margin, by_success = [], []
    for ways in asked(cases, at).values():
        if name not in ways:
            continue
        by_margin.append(1 + sum(known.margin[at] > ways[name].margin[at] for known in ways.values()))
        by_success.append(1 + sum(known.success > ways[name].success for known in ways.values()))
    return float(np.mean(by_margin)), float(np.mean(by_success))
