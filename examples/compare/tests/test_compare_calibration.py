"""How good picks by short runs are: the rules, the halves, and that the trial's own code picks."""

from __future__ import annotations

import pytest

from apt_compare import calibration, calibration_page, marked, picking, pilots
from apt_compare.board import shared
from apt_compare.calibration import Known
from apt_compare.pilots import FULL, Case
from apt_compare.plan import read, results, shipped
from apt_compare.spec import PILOTS
from apt_plugin.trial.ways import WAYS

CONFIGS = read(shipped())
TOLD = pilots.read(CONFIGS)


def known(success: float, margin: float, loss: float, taken: bool = False) -> Known:
    every = dict.fromkeys((*PILOTS, FULL), margin)
    return Known(
        success,
        every,
        dict.fromkeys(PILOTS, loss),
        every,
        dict.fromkeys(PILOTS, taken),
        dict.fromkeys((*PILOTS, FULL), 1.0),
    )


def case(half: str, seed: int, quick: float, slow: float) -> tuple[Case, dict[str, Known]]:
    """A way with the larger margin, and one with the lower loss; their success."""
    return Case("x", seed, half), {"own": known(slow, 0.5, 0.4), "gated": known(quick, 1.0, 0.6, True)}


def test_the_cases_are_enough_and_the_halves_share_no_run():
    assert len({each.setting for each in TOLD.cases}) >= 12
    assert list(TOLD.ways) == [way.name for way in WAYS]  # the simplest first, as the trial breaks ties
    halves = [[each for each in TOLD.cases if each.half == half] for half in pilots.HALVES]
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    cells = [
        {job.key for job in pilots.jobs(pilots.Calibration(TOLD.ways, TOLD.pilots, half), CONFIGS)} for half in halves
    ]
    assert not cells[0] & cells[1]
    twins = [{"random", "play"}, {"little", "little_play"}]  # one run to an arm that sees no unlabelled demonstration
    for pair in twins:
        seeds = [each.seed for each in TOLD.cases if each.setting in pair]
        assert len(set(seeds)) == len(seeds)


def test_a_rule_is_chosen_on_one_half_and_reported_on_the_other():
    cases = dict(
        [*(case("choose", k, 0.9, 0.5) for k in range(3)), *(case("report", k, 0.5, 0.9) for k in range(3, 6))]
    )
    assert picking.chosen(cases, True) == "margin alone"
    assert picking.chosen(cases, False) == "always gated"
    mine = picking.half(cases, "report")
    made = picking.outcome(picking.margin, mine, "tenth")
    assert (made.right, made.cases, made.lost) == (0, 3, pytest.approx(0.4))
    assert picking.outcome(picking.loss, mine, "tenth").right == 3
    said = "\n".join(
        calibration_page.lines(cases, pilots.Calibration({"own": "a", "gated": "b"}, tuple(PILOTS), list(cases)), {})
    )
    assert (
        "| by the largest margin: the rule that was right most often in the first half | 0 of 3 cases | 40.0 |" in said
    )
    assert "In none of 6 cases that half holds the way with the largest margin" in said
    assert "In 3 of 6 it holds the way whose full run was best. In 3 of 6 it holds every way that" in said
    assert "| `own` | 2.0 | 2.0 | 2.0 | 1.5 | 70 | 3 of 6 |" in said  # pilots under-rate it


def test_three_points_are_close_and_four_are_not():
    for off, right in ((0.03, 1), (0.04, 0)):
        _, ways = case("choose", 0, 0.7 - off, 0.7)
        assert picking.outcome(picking.margin, {Case("x", 0, "choose"): ways}, "tenth").right == right


def test_the_rules_look_at_what_they_say():
    _, ways = case("choose", 0, 0.9, 0.5)
    found = picking.rules(list(ways))
    assert found["margin, loss at most 1.1 times the lowest"](ways, "tenth") == "own"
    assert found["margin, loss at most 1.5 times the lowest"](ways, "tenth") == "gated"
    assert found["the trial's rule"](ways, "tenth") == "gated"
    rising = {**ways, "own": Known(0.5, {"twentieth": 0.1, "tenth": 0.6, "fifth": 0.7}, ways["own"].loss, {}, {}, {})}
    assert found["margin carried on by 1 doublings"](rising, "tenth") == "own"
    assert found["margin carried on by 1 doublings"](rising, "fifth") == "gated"


def a_pilot(way: str, margin: float) -> dict:
    return {
        "setting": "random", "seed": 0, "arm": TOLD.ways[way], "budget": "tenth", "steps": [0, 150],
        "cpu": {"train": 2.0, "stage1": 0.0},
        "episode": list(range(40)), "margin": [margin + k % 2 / 100 for k in range(40)], "loss": [0.5] * 40,
        "unit": 1.0,
        "retention": [[150, 0.9, 0.8]],
    }  # fmt: skip


def a_full(way: str, k: int) -> dict:
    return {
        "setting": "random", "seed": 0, "arm": TOLD.ways[way], "budget": FULL, "steps": [0, 1500],
        "cpu": {"train": 20.0},
        "splits": {split: {"k": k, "n": 100} for split in calibration.SCORED}, "listen": {"margin": 1.0, "loss": 0.3},
    }  # fmt: skip


def test_a_case_becomes_rows_and_rows_the_case_again():
    told = pilots.Calibration(TOLD.ways, ("tenth",), TOLD.cases)
    runs = [a_pilot(way, place / 10) for place, way in enumerate(TOLD.ways)]
    runs += [a_full(way, 50 + place) for place, way in enumerate(TOLD.ways)]
    rows = calibration.gathered(runs, told)
    made = calibration.read(calibration.write(rows).decode(), told)
    assert [each.name for each in made] == ["random 0"]
    ways = next(iter(made.values()))
    assert list(ways) == list(TOLD.ways)
    assert [each.success for each in ways.values()] == [0.50, 0.51, 0.52, 0.53, 0.54]
    assert [name for name, each in ways.items() if each.taken["tenth"]] == ["two-stage"]  # by the trial's own code
    assert ways["own"].pointing["tenth"] == 0.9
    assert ways["own"].cpu[FULL] == 20.0
    half_done = calibration.gathered(runs[:-1], told)
    assert calibration.read(calibration.write(half_done).decode(), told) == {}


def test_full_runs_say_what_no_pilot_can_better() -> None:
    runs = [a_full(way, 50 + place) for place, way in enumerate(TOLD.ways)]
    other = [{**run, "seed": 1} for run in runs[:-1]]  # of one way nothing is known
    made = calibration.whole([*runs, *other, a_pilot("own", 0.1)], TOLD)
    assert [case.name for case in made] == ["random 0"]
    said = "\n".join(calibration_page.lines({}, TOLD, made))
    assert "nothing can be said of pilots yet" in said
    assert "| always two-stage | 1 of 1 cases, 0.0 |" in said
    assert "| always own | 0 of 1 cases, 4.0 |" in said
    assert "the trial's rule" not in said  # which looks at frames


def test_ways_that_do_not_differ_go_to_the_simpler_one_by_the_trials_own_rule():
    alike = {way: a_pilot(way, 0.5) for way in TOLD.ways}
    assert calibration.trials_own(alike) == "own"


def test_the_pages_say_what_the_tables_hold() -> None:
    """`apt-compare calibration` writes them; see the project's README."""
    project = CONFIGS.folder.parent
    cases = calibration.read((project / "calibration.csv").read_text(), TOLD)
    tables = (project / name for name in ("results.csv", "worlds.csv"))
    known = shared([run for table in tables for run in results(table)], CONFIGS)
    page, users = project / "calibration.md", project.parent / "trial.md"
    said = calibration_page.lines(cases, TOLD, calibration.whole(known, TOLD))
    assert page.read_text() == marked.renewed(page.read_text(), (calibration_page.BEGIN, calibration_page.END), said)
    answer = calibration_page.answer(cases, TOLD)
    assert users.read_text() == marked.renewed(users.read_text(), calibration_page.SHORT, answer)
    halving = calibration_page.halving(cases, TOLD)
    assert users.read_text() == marked.renewed(users.read_text(), calibration_page.HALVING, halving)
