"""A task's file, as LIBERO writes it: what its scene holds, what its goal speaks of, and another file's goal put in."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_plugin.errors import AptError
from apt_plugin.libero import suites
from apt_plugin.listen import bddl


def written(sentence: str, goal: str, *objects: str) -> str:
    """A file of a table with a cabinet; `objects` lie on it."""
    held = "\n".join(f"    {name} - {name.rpartition('_')[0]}" for name in objects)
    return f"""(define (problem LIBERO_Tabletop_Manipulation)
  (:domain robosuite)
  (:language {sentence})
    (:regions
      (plate_region
          (:target main_table)
          (:ranges (
              (-0.01 0.25 0.01 0.27)
            )
          )
      )
      (top_region
          (:target cabinet_1)
      )
    )
  (:fixtures
    main_table - table
    cabinet_1 - cabinet
  )
  (:objects
{held}
  )
  (:obj_of_interest
    {objects[0]}
  )
  (:init
    (On {objects[0]} main_table_plate_region)
  )
  (:goal
    (And {goal})
  )
)
"""


BOWL = written("Put the bowl in the drawer", "(In bowl_1 cabinet_1_top_region)", "bowl_1", "milk_1")
MILK = written("Put the milk in the drawer", "(In milk_1 cabinet_1_top_region)", "milk_1", "bowl_1")
SOUP = written("Put the soup on the plate", "(On soup_1 main_table_plate_region)", "soup_1")
OPEN = written("Open the cabinet", "(Open cabinet_1)", "bowl_1", "milk_1")


def test_a_scene_holds_its_objects_fixtures_and_regions() -> None:
    assert bddl.scene_names(BOWL) == {
        "bowl_1", "milk_1", "main_table", "cabinet_1", "main_table_plate_region", "cabinet_1_top_region"
    }  # fmt: skip
    assert bddl.goal_names(BOWL) == {"bowl_1", "cabinet_1_top_region"}
    assert bddl.goal_names(OPEN) == {"cabinet_1"}


def test_another_goal_brings_its_sentence_and_changes_nothing_else() -> None:
    made = bddl.with_task_of(BOWL, MILK)
    assert bddl.task(made, Path("x")) == bddl.task(MILK, Path("x"))
    assert bddl.section(made, "(:obj_of_interest") == bddl.section(MILK, "(:obj_of_interest")
    assert bddl.section(made, "(:init") == bddl.section(BOWL, "(:init")
    assert bddl.with_task_of(made, BOWL) == BOWL


def test_a_scene_is_asked_for_each_other_goal_that_it_holds_and_for_none_that_it_lacks() -> None:
    """Three scenes with a bowl and milk can be asked for each other's goals; nobody else has soup."""
    assert list(suites.pairs([BOWL, MILK, SOUP, OPEN])) == [(0, 1), (0, 3), (1, 0), (1, 3), (2, 3), (3, 0), (3, 1)]
    assert list(suites.pairs([BOWL, BOWL])) == [], "the same goal is no other task"
    assert list(suites.pairs([BOWL, MILK, MILK])) == [(0, 1), (1, 0), (2, 0)], "two files of one goal are asked once"


@pytest.mark.parametrize("name", ["libero_goal", "libero_goal_task", "libero_goal_lan", "libero_goal_counterfactual"])
def test_the_suite_that_another_was_made_from_is_told_from_its_name(name: str) -> None:
    assert suites.base_of(name) == "libero_goal"
    assert suites.base_of(name.replace("goal", "object")) == "libero_object"


def test_a_file_without_a_goal_is_refused() -> None:
    with pytest.raises(AptError, match="no file of a LIBERO task"):
        bddl.task("(define (problem x) (:language y))", Path("x"))
