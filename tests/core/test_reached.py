"""Which object an arm went for, from positions alone; and a line of each episode of an environment like LIBERO's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.libero import watch
from apt_plugin.libero.reached import REACH, Approach
from apt_plugin.listen import bddl

MILK, SOUP, BASKET = "milk_1", "soup_1", "basket_1"
PLACES = {MILK: np.array((0.0, 0.2, 0.05)), SOUP: np.array((0.0, -0.2, 0.03)), BASKET: np.array((0.3, 0.0, 0.0))}
HOME = np.array((0.0, 0.0, 0.4))


def went(*decisions: tuple[np.ndarray, bool]) -> dict[str, Any]:
    """Asked for milk where soup is usual."""
    approach = Approach()
    for fingers, closing in decisions:
        approach.see(fingers, PLACES, closing)
    return approach.verdict({MILK}, {SOUP})


def above(name: str, height: float) -> np.ndarray:
    return PLACES[name] + (0, 0, height)


def test_the_first_closing_near_an_object_decides() -> None:
    told = went((HOME, False), (above(SOUP, 0.02), False), (above(MILK, 0.03), True), (above(SOUP, 0.0), True))
    assert (told["went"], told["object"], told["moment"]) == ("named", MILK, "closed")
    assert told["distance"] == 0.03
    assert told["closest"] == {
        MILK: 0.03,
        SOUP: 0.0,
        BASKET: pytest.approx(np.linalg.norm(PLACES[BASKET] - (0, -0.2, 0.03)), abs=1e-3),
    }
    assert went((above(SOUP, 0.01), True))["went"] == "usual"
    assert went((above(BASKET, 0.05), True))["went"] == "other"


def test_a_closing_far_from_all_or_held_all_the_way_down_does_not_count() -> None:
    high = went((HOME, True), (HOME, False), (above(SOUP, 0.05), False), (above(MILK, 0.2), True))
    assert (high["went"], high["moment"], high["distance"]) == ("usual", "lowest", 0.05)
    held = went((HOME, True), (above(MILK, 0.08), True), (above(SOUP, 0.01), True))
    assert (held["went"], held["moment"]) == ("usual", "lowest"), "it never began to close near anything"


def test_an_arm_that_stays_away_from_all_went_for_nothing() -> None:
    told = went((HOME, False), (above(MILK, REACH + 0.01), True))
    assert (told["went"], told["object"], told["distance"]) == ("nothing", None, pytest.approx(REACH + 0.01))
    assert Approach().verdict({MILK}, {SOUP})["went"] == "nothing"


def test_a_goal_is_about_the_first_name_of_each_condition() -> None:
    one = "(define (:goal (And (In milk_1 basket_1_contain_region))))"
    assert bddl.wanted_names(one) == {MILK}
    two = "(define (:goal (And (Turnon stove_1) (On pot_1 stove_1_cook_region))))"
    assert bddl.wanted_names(two) == {"stove_1", "pot_1"}


class Simulator:
    """The parts of LIBERO's `ControlEnv` that are read: the fingers stand where an action puts them."""

    def __init__(self) -> None:
        self.fingers, self.done = HOME, False
        data = SimpleNamespace(body_xpos=[*PLACES.values()], get_site_xpos=lambda name: HOME)
        self.env: Any = SimpleNamespace(
            parsed_problem={"goal_state": [["in", MILK, "basket_1_contain_region"]]}, objects_dict=PLACES,
            obj_body_id={name: place for place, name in enumerate(PLACES)}, object_sites_dict={},
            robots=[SimpleNamespace(eef_site_id=0)], sim=SimpleNamespace(data=data),
        )  # fmt: skip
        self.reset()

    def reset(self) -> None:
        self.fingers, self.done = HOME, False
        self.env.sim.data.site_xpos = [HOME]

    def set_init_state(self, state: Any) -> None:
        self.reset()

    def step(self, action: np.ndarray) -> None:
        self.env.sim.data.site_xpos = [action[:3]]
        self.done = bool(action[5])

    def check_success(self) -> bool:
        return self.done

    def close(self) -> None:
        self.env = None


def test_each_episode_adds_one_line_when_it_is_over(tmp_path: Path) -> None:
    path = watch.checked(tmp_path / "new" / "reached.jsonl", "--reached")
    env: Any = Simulator()
    watch.Watch(env, watch.Asked("libero_x", 3, "take the milk", frozenset({SOUP})), path)

    def step(where: np.ndarray, closes: float, done: float = 0.0) -> None:
        env.step(np.array((*where, 0, 0, done, closes)))

    def lines() -> list[Any]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    env.reset()
    env.set_init_state(None)
    for _ in range(3):
        env.step(np.array((0, 0, 0, 0, 0, 0, -1.0)))
    env.reset()
    assert lines() == [], "letting a scene settle is no episode"
    step(above(MILK, 0.02), -1)
    step(HOME, 1, done=1)
    assert [line["success"] for line in lines()] == [True], "it is over with its success"
    step(above(SOUP, 0.0), -1)
    env.reset()
    step(above(SOUP, 0.02), -1)
    step(HOME, -1)
    env.close()
    first, second = lines()
    assert (first["suite"], first["task"]) == ("libero_x", 3)
    assert (first["sentence"], first["went"], first["steps"]) == ("take the milk", "named", 2)
    assert (second["success"], second["went"], second["usual"]) == (False, "usual", [SOUP])


def test_an_environment_that_is_dropped_leaves_its_last_episode(tmp_path: Path) -> None:
    path = watch.checked(tmp_path / "reached.jsonl", "--reached")
    env: Any = Simulator()
    watch.Watch(env, watch.Asked("libero_x", 3, "take the milk", frozenset({SOUP})), path)
    env.step(np.array((*HOME, 0, 0, 0, -1.0)))
    env.step(np.array((*HOME, 0, 0, 0, -1.0)))
    del env
    assert json.loads(path.read_text())["went"] == "nothing"


def test_a_file_that_cannot_be_written_is_refused_before_an_episode(tmp_path: Path) -> None:
    with pytest.raises(AptError, match=r"--env\.reached .* cannot be written"):
        watch.checked(tmp_path, "--env.reached")
