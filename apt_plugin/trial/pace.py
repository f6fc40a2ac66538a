"""How long each way takes a step, measured by two runs too short to be asked about, and how many steps that leaves.

    seconds of a run = start + step x steps

W ways. A way's start (imports, loading, saving) is no training, and is left out of what is equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apt_plugin.errors import AptError

LENGTHS = (10, 40)  # steps of the two runs: the seconds between them are those of 30 steps
FEWEST = 2  # steps of a run
KEPT_BACK = 0.2  # of the hours: for asking, and for hours that are slower than those two runs
EQUAL = ("steps", "time")


@dataclass(frozen=True)
class Pace:
    """Of one way, in seconds: what a run takes before and behind its steps, and what a step takes."""

    start: float
    step: float


def of(seconds: tuple[float, float]) -> Pace:
    """
    Args:
        seconds: of runs of `LENGTHS` steps.
    """
    few, many = seconds
    step = max((many - few) / (LENGTHS[1] - LENGTHS[0]), 1e-3)  # noise may make the longer run the quicker one
    return Pace(max(few - step * LENGTHS[0], 0.0), step)


def steps(
    paces: Mapping[str, Pace], equal: str, seeds: int, whole: int, budget: float, hours: float | None, spent: float
) -> dict[str, int]:
    """Way -> steps of each of its runs.

    Args:
        paces: of the ways, the simplest first; by that one the others' time is measured where no hours are given.
        equal: what all runs have the same of. seeds: runs of each way.
        whole: the command's own steps, which no run exceeds. budget: a share of them, where no hours are given.
        hours: for the whole trial, of which `spent` seconds are gone.

    Raises:
        AptError: the hours do not hold two steps of each run.
    """
    first = next(iter(paces.values()))
    if hours is None:
        same = max(FEWEST, round(budget * whole)) * first.step
    else:
        left = hours * 3600 * (1 - KEPT_BACK) - spent - seeds * sum(pace.start for pace in paces.values())
        of_all = seeds * (sum(pace.step for pace in paces.values()) if equal == "steps" else len(paces))
        same = left / of_all * (first.step if equal == "steps" else 1.0)
    found = {
        name: min(whole, int(same / (first if equal == "steps" else pace).step + 1e-6)) for name, pace in paces.items()
    }
    if min(found.values()) < FEWEST:
        starts = seeds * sum(pace.start for pace in paces.values())
        raise AptError(
            f"--trial.hours {hours:g} leaves {max(min(found.values()), 0)} steps to a way: starting and saving "
            f"{seeds * len(paces)} runs takes {starts / 3600:.2g} hours, a fifth is kept for asking, and measuring "
            f"took {spent / 3600:.2g}. Write more hours, or fewer ways (--trial.arms)."
        )
    return found
