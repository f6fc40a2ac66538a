"""Which demonstrations a set has: skew, play, layouts, growth; and what the expert asks of the arm. No simulator."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from apt_libero.expert import CLOSED, GRASPS, LIFTED, OPEN, Expert, Grasp
from apt_libero.plan import ROUND, STATES, TESTS, Data, demos, shares
from apt_libero.record import summary
from apt_plugin.errors import AptError

ALLOWED = [[scene, (scene + 1) % 4, (scene + 2) % 4] for scene in range(4)]


def test_the_share_of_usual_objects_is_exact_and_the_others_are_in_view() -> None:
    made = demos(Data(per_object=20, usual_share=0.8), ALLOWED)
    assert shares(made)["usual"] == 64
    assert all(demo.wanted in ALLOWED[demo.scene] for demo in made)
    per_scene = [sum(d.wanted != d.scene for d in made if d.scene == scene) for scene in range(4)]
    assert per_scene == [4] * 4
    assert shares(demos(Data(usual_share=1.0), ALLOWED))["usual"] == 48
    assert shares(demos(Data(usual_share=0.0), ALLOWED))["usual"] == 0


def test_play_has_no_words_and_every_object_in_view_as_often() -> None:
    made = demos(Data(per_object=6, play=True), ALLOWED)
    assert not any(demo.told for demo in made)
    for scene in range(4):
        wanted = [demo.wanted for demo in made if demo.scene == scene]
        assert sorted(wanted) == sorted(ALLOWED[scene] * 2)


def test_a_set_grows_and_keeps_what_it_has() -> None:
    """A demonstration must not depend on how many follow, or a longer run would record everything anew."""
    few, many = (Data(per_object=count) for count in (ROUND, 3 * ROUND))
    assert few.name == many.name
    assert set(demos(few, ALLOWED)) < set(demos(many, ALLOWED))
    assert [demo.number for demo in demos(many, ALLOWED)][: 4 * ROUND] == list(range(ROUND)) * 4, "rounds over scenes"
    others = [Data(usual_share=0.5), Data(layouts=1), Data(play=True), Data(pixels=64), Data(seed=1), Data(cameras=2)]
    assert len({data.name for data in (few, *others)}) == 7


@pytest.mark.parametrize("layouts", [0, 1, 5])
def test_no_demonstration_begins_where_evaluators_begin(layouts: int) -> None:
    data = Data(layouts=layouts, per_object=30)
    states = {demo.beginning(data, attempt)[0] for demo in demos(data, ALLOWED) for attempt in range(3)}
    assert states <= set(range(TESTS, TESTS + layouts if layouts else STATES))
    assert len(states) > 1 or layouts == 1
    demo = demos(data, ALLOWED)[0]
    assert np.array_equal(demo.beginning(data, 0)[1], demo.beginning(data, 0)[1])
    assert not np.array_equal(demo.beginning(data, 0)[1], demo.beginning(data, 1)[1])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"usual_share": 1.2}, "--usual-share is 1.2"), ({"cameras": 3}, "--cameras is 3"), ({"hz": 0}, "--hz is 0"),
     ({"layouts": 41}, r"--layouts is 41; write 0 \(all\) to 40"), ({"per_object": 0}, "--per-object is 0")],
)  # fmt: skip
def test_what_no_set_can_have_is_refused_by_its_flag(wrong: dict, told: str) -> None:
    with pytest.raises(AptError, match=told):
        Data(**wrong)


def test_the_expert_goes_above_down_closes_lifts_carries_and_opens() -> None:
    """An arm that obeys: where the fingers close, they are at the object; where they open, over the basket."""
    at, basket = np.array((0.1, -0.2, 0.05)), np.array((0.0, 0.25, 0.0))
    here, turn = np.array((-0.15, 0.0, 0.26)), 0.0

    def pose() -> tuple[np.ndarray, np.ndarray]:
        return here, np.array((0, 0, np.sin(turn / 2), np.cos(turn / 2)))

    expert = Expert(pose(), at, basket, "thing_1", np.array((0.01, 0.0)), Grasp(0.02, np.pi / 2))
    seen = []
    while not expert.over:
        action = expert.act(pose())
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1
        here, turn = here + 0.05 * action[:3], turn + 0.5 * action[5]
        seen.append((action[6], here, turn))
    closing = next(i for i, (gripper, _, _) in enumerate(seen) if gripper == CLOSED)
    opening = next(i for i in range(closing, len(seen)) if seen[i][0] == OPEN)
    assert np.allclose(seen[closing][1], np.array((*at[:2], at[2] + 0.02)), atol=0.02)
    assert abs(seen[closing][2] - np.pi / 2) < 0.15
    assert max(where[2] for _, where, _ in seen[closing:opening]) == pytest.approx(LIFTED, abs=0.02)
    assert np.allclose(seen[opening][1][:2], basket[:2], atol=0.02)
    assert len(seen) >= 20


def test_a_summary_counts_first_attempts_by_object_and_the_cost_of_a_demonstration() -> None:
    sentence = "pick up the {} and place it in the basket"
    one = {"scene": 0, "number": 0, "wanted": 0, "told": True, "frames": 40, "cpu": 6.0, "attempts": 1, "success": True}
    found = [
        {**one, "sentence": sentence.format("milk")},
        {**one, "sentence": sentence.format("milk"), "attempts": 2, "cpu": 12.0},
        {**one, "sentence": sentence.format("butter"), "attempts": 3, "success": False, "cpu": 18.0, "wanted": 1},
    ]
    told = summary(found)
    assert told["first attempts"] == {"butter": "0 of 1", "milk": "1 of 2"}
    assert (told["demonstrations"], told["usual"], told["frames"], told["CPU seconds each"]) == (2, 2, 80, 18.0)


def test_every_tall_thing_has_a_grasp_of_its_own() -> None:
    assert {"milk", "orange_juice", "salad_dressing", "bbq_sauce", "ketchup"} <= set(GRASPS)
    assert dataclasses.asdict(GRASPS["milk"])["height"] > dataclasses.asdict(GRASPS["chocolate_pudding"])["height"]
