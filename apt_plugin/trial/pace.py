"""How long each way takes a step, measured by two runs too short to be asked about, and how many steps that leaves.

    seconds of a run = start + step x steps

W ways. A way's start (imports, loading, saving) is no training, and is left out of what is equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from apt_plugin.errors import AptError

LENGTHS = (10, 40)  # steps of the two runs: the seconds between them are those of 30 steps
FEWEST = 2  # steps of a run
KEPT_BACK = 0.2  # of the hours: for hours that are slower than those two runs
EQUAL = ("steps", "time")
NOISE = 0.1  # of the longer run: two runs that differ by less tell no step, and then the longest that it may be counts


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
    step = max(many - few, NOISE * many) / (LENGTHS[1] - LENGTHS[0])
    return Pace(max(few - step * LENGTHS[0], 0.0), step)


def share(budget: float, whole: int, flag: str, least: int | None = None) -> int:
    """Steps of a run that gets a share of the command's own.

    Args:
        whole: the command's own steps; flag: what the host calls them. least: what it gets in any case.

    Raises:
        AptError: too few for a way.
    """
    found = max(round(budget * whole), least or 0)
    if found >= FEWEST:
        return found
    mend = f"Raise --{flag}" if whole < FEWEST else f"Write --trial.budget {_up(FEWEST / whole)} or more"
    raise AptError(
        f"--trial.budget {budget:g} of --{flag} {whole} is {found}, and a way takes {FEWEST} steps at least. {mend}. "
        "Nothing was trained."
    )


def points(steps: int, wanted: int) -> int:
    """How many checkpoints at equal distances, the last one included, a run of so many steps can leave."""
    apart = -(-steps // wanted)
    return -(-steps // apart)


def steps(
    paces: Mapping[str, Pace],
    equal: str,
    seeds: int,
    whole: int,
    budget: float,
    hours: float | None,
    spent: float,
    asking: float = 0.0,
) -> dict[str, int]:
    """Way -> steps of each of its runs.

    Args:
        paces: of the ways, the simplest first; by that one the others' time is measured where no hours are given.
        equal: what all runs have the same of. seeds: runs of each way.
        whole: the command's own steps, which no run exceeds. budget: a share of them, where no hours are given.
        hours: for the whole trial, of which `spent` seconds are gone. asking: seconds that it takes of one run.

    Raises:
        AptError: the hours, or that share, do not hold two steps of each run.
    """
    first = next(iter(paces.values()))
    if hours is None:
        same = max(FEWEST, round(budget * whole)) * first.step
    else:
        left = hours * 3600 * (1 - KEPT_BACK) - spent - seeds * sum(pace.start + asking for pace in paces.values())
        of_all = seeds * (sum(pace.step for pace in paces.values()) if equal == "steps" else len(paces))
        same = left / of_all * (first.step if equal == "steps" else 1.0)
    found = {
        name: min(whole, int(same / (first if equal == "steps" else pace).step + 1e-6)) for name, pace in paces.items()
    }
    least = min(found, key=found.__getitem__)
    if found[least] >= FEWEST:
        return found
    if hours is None:
        mend = _up(FEWEST * max(pace.step for pace in paces.values()) / first.step / whole)
        raise AptError(
            f"--trial.budget {budget:g} leaves {found[least]} steps to {least} where every way has the same time, and "
            f"a way takes {FEWEST} at least. Write --trial.budget {mend} or more, "
            "or drop --trial.equal time."
        )
    count = seeds * len(paces)
    starts = seeds * sum(pace.start for pace in paces.values())
    raise AptError(
        f"--trial.hours {hours:g} leaves {max(found[least], 0)} steps to {least}, and a way takes {FEWEST} at least: "
        f"starting and saving {count} runs takes {starts / 3600:.2g} hours, asking them {count * asking / 3600:.2g}, "
        f"what was done so far took {spent / 3600:.2g}, and a fifth is kept back. Write --trial.hours "
        f"{_up(enough(paces, equal, seeds, spent, asking))} or more, or fewer ways (--trial.arms)."
    )


def enough(paces: Mapping[str, Pace], equal: str, seeds: int, spent: float, asking: float = 0.0) -> float:
    """Hours that hold `FEWEST` steps of every run; see `steps`."""
    step = [pace.step for pace in paces.values()]
    trained = FEWEST * (sum(step) if equal == "steps" else len(step) * max(step))
    seconds = seeds * (sum(pace.start + asking for pace in paces.values()) + trained)
    return (seconds + spent) / 3600 / (1 - KEPT_BACK)


def check(hours: float, took: Mapping[str, float], ways: int, seeds: int) -> None:
    """While ways are measured: whether hours can be enough at all.

    Args:
        took: way -> seconds of its shorter run, of those that were measured. ways: how many there are.

    Raises:
        AptError: starting every run takes more than the hours.
    """
    mean = sum(took.values()) / len(took)
    needs = mean * ways * (2 + seeds) / 3600 / (1 - KEPT_BACK)  # two runs measure a way
    if needs > hours:
        raise AptError(
            f"--trial.hours {hours:g} is too few: a run of {LENGTHS[0]} steps takes {mean / 3600:.2g} hours here, and "
            f"{ways} ways take {ways * (2 + seeds)} such runs, those that measure a step among them. Write "
            f"--trial.hours {_up(needs)} or more, or fewer ways (--trial.arms)."
        )


def _up(value: float) -> str:
    """Two digits, never less."""
    digits = 1 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:g}"
