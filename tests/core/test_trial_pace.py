"""Steps of a trial's runs by measured seconds."""

from __future__ import annotations

import re

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


def test_hours_that_hold_no_run_are_refused_with_the_hours_that_would_do() -> None:
    with pytest.raises(AptError, match=r"--trial.hours 0.057 leaves 1 steps .* starting and saving 2 runs takes 0.044"):
        steps("steps", 0.057)
    with pytest.raises(AptError, match="leaves 0 steps"):
        steps("time", 0.01)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("equal", pace.EQUAL)
def test_the_hours_that_are_asked_for_are_enough(equal: str, seeds: int) -> None:
    with pytest.raises(AptError) as refused:
        steps(equal, 0.01, seeds, spent=77.0)
    hours = float(re.findall(r"Write --trial.hours ([\d.]+) or more", str(refused.value))[0])
    assert pace.FEWEST <= min(steps(equal, hours, seeds, spent=77.0).values()) <= 2 * pace.FEWEST
    asked = pace.enough(PACES, equal, seeds, 77.0, asking=30.0)
    assert asked == pytest.approx(pace.enough(PACES, equal, seeds, 77.0) + seeds * 2 * 30 / 3600 / 0.8)
    assert min(pace.steps(PACES, equal, seeds, 30_000, 0.1, 1.001 * asked, 77.0, 30.0).values()) == pace.FEWEST
    with pytest.raises(AptError):
        steps(equal, 0.97 * pace.enough(PACES, equal, seeds, 77.0), seeds, spent=77.0)


def test_a_share_that_is_too_small_is_refused_with_the_share_that_would_do() -> None:
    assert pace.share(0.1, 20, "steps") == 2
    with pytest.raises(AptError, match=r"--trial.budget 0.0001 of --steps 3000 is 0.*Write --trial.budget 0.00067 or"):
        pace.share(0.0001, 3000, "steps")
    assert pace.share(0.00067, 3000, "steps") == 2
    with pytest.raises(AptError, match=r"Raise --max-steps\. Nothing was trained"):
        pace.share(0.5, 1, "max-steps")
    assert pace.share(0.1, 1, "steps", 2) == 2  # where hours say later how many


def test_equal_time_that_holds_no_step_of_the_slowest_way_is_refused_with_the_share_that_would_do() -> None:
    """There are no hours to name."""
    with pytest.raises(AptError, match=r"--trial.budget 0.1 leaves 1 steps to gated .* Write --trial.budget 0.2 or"):
        steps("time", whole=20)
    assert pace.steps(PACES, "time", 1, 20, 0.2, None, 0.0) == {"own": 4, "gated": 2}


def test_too_few_hours_are_said_once_one_way_was_measured() -> None:
    pace.check(2.0, {"own": 180.0}, 5, 1)
    with pytest.raises(
        AptError, match=r"a run of 10 steps takes 0.05 hours here, and 5 ways take 15 such runs"
    ) as said:
        pace.check(0.5, {"own": 180.0}, 5, 1)
    hours = float(re.findall(r"Write --trial.hours ([\d.]+) or more", str(said.value))[0])
    pace.check(hours, {"own": 180.0}, 5, 1)


def test_noise_on_quick_steps_promises_no_more_steps_than_the_hours_hold() -> None:
    """The longer run may be the quicker one; a step of no seconds would fill the hours with the whole training."""
    noisy = pace.of((20.0, 19.0))
    found = pace.steps({"own": noisy}, "steps", 1, 10**6, 0.1, 1.0, 0.0)["own"]
    assert found * 19.0 * pace.NOISE / 30 < 3600


def test_points_are_counted_by_what_a_short_run_can_leave() -> None:
    assert [pace.points(steps, 3) for steps in (2, 3, 4, 150)] == [2, 3, 2, 3]
    assert pace.points(10, 6) == 5


def test_the_flags_say_which_of_it_is_wanted() -> None:
    found, _ = options.read(["train", "--trial.hours", "3"])
    assert (found.hours, found.equal, found.measured) == (3.0, "steps", True)
    assert options.read(["train", "--trial.equal=time"])[0].measured
    assert not options.read(["train", "--trial.equal=steps", "--trial.budget=0.2"])[0].measured


def test_steps_are_one_number_where_they_are_alike() -> None:
    assert pages.lengths({"own": 3000, "gated": 3000}) == "3,000"
    assert pages.lengths({"own": 3000, "gated": 1500}) == "own 3,000, gated 1,500"
