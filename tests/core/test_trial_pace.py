"""Steps of a trial's runs by measured seconds."""

from __future__ import annotations

import pytest

from apt_plugin.errors import AptError
from apt_plugin.trial import options, pace, pages
from apt_plugin.trial.pace import LENGTHS, Pace

PACES = {"own": Pace(60.0, 1.0), "gated": Pace(100.0, 2.0)}


def steps(equal: str, hours: float | None = None, seeds: int = 1, spent: float = 0.0, whole: int = 30_000) -> dict:
    return pace.steps(PACES, equal, seeds, whole, 0.1, hours, spent)


def test_a_step_is_told_from_the_start_of_a_run_by_two_lengths() -> None:
    few, many = (30 + 0.5 * count for count in LENGTHS)
    found = pace.of((few, many))
    assert (found.start, found.step) == (pytest.approx(30), pytest.approx(0.5))
    assert pace.of((20.0, 19.0)).step > 0  # noise on a step that takes no time


def test_equal_time_is_the_seconds_of_the_simplest_ways_steps() -> None:
    assert steps("time") == {"own": 3000, "gated": 1500}
    assert steps("steps") == {"own": 3000, "gated": 3000}


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_hours_hold_everything_and_a_fifth_is_kept_back(seeds: int) -> None:
    for equal in pace.EQUAL:
        found = steps(equal, 2.0, seeds, spent=300.0)
        took = seeds * sum(PACES[name].start + PACES[name].step * count for name, count in found.items()) + 300
        assert 0.99 * 0.8 * 7200 < took <= 0.8 * 7200
    assert len(set(steps("steps", 2.0).values())) == 1
    assert steps("time", 2.0)["own"] == pytest.approx(2 * steps("time", 2.0)["gated"], abs=2)


def test_more_hours_than_the_whole_training_takes_make_no_run_longer_than_it() -> None:
    assert steps("steps", 100.0, whole=500) == {"own": 500, "gated": 500}


def test_hours_that_hold_no_run_are_refused_with_what_takes_them() -> None:
    with pytest.raises(AptError, match=r"--trial.hours 0.057 leaves 1 steps .* starting and saving 2 runs takes 0.044"):
        steps("steps", 0.057)
    with pytest.raises(AptError, match="leaves 0 steps"):
        steps("time", 0.01)


def test_the_flags_say_which_of_it_is_wanted() -> None:
    found, _ = options.read(["train", "--trial.hours", "3"])
    assert (found.hours, found.equal, found.measured) == (3.0, "steps", True)
    assert options.read(["train", "--trial.equal=time"])[0].measured
    assert not options.read(["train", "--trial.equal=steps", "--trial.budget=0.2"])[0].measured


def test_steps_are_one_number_where_they_are_alike() -> None:
    assert pages.lengths({"own": 3000, "gated": 3000}) == "3,000"
    assert pages.lengths({"own": 3000, "gated": 1500}) == "own 3,000, gated 1,500"
