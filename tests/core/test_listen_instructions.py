"""Which words each frame is asked under: sets, swaps, files and their refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apt_plugin.errors import AptError
from apt_plugin.listen import words
from apt_plugin.listen.instructions import KINDS, Variant, load, load_libero_pro, plan, split_by_scene
from apt_plugin.listen.sampling import spread_over_tasks
from apt_plugin.listen_command import variants_from

TASKS = ["pick up the red cup", "pick up the blue cup", "push the red block left of the bowl"]


def test_an_attribute_swap_changes_one_word_and_stays_in_the_data_sets_vocabulary() -> None:
    assert words.swaps(TASKS[0], "colour", TASKS) == ["pick up the blue cup"]
    assert words.swaps(TASKS[0], "noun", TASKS) == ["pick up the red block", "pick up the red bowl"]
    assert words.swaps(TASKS[2], "relation", TASKS) == []  # "left" is the only relation that these tasks have
    assert words.swaps("Pick up the red cup", "verb", [*TASKS, "Pick up the red cup"])[0] == "Push up the red cup"


def test_swaps_that_are_tasks_come_first() -> None:
    tasks = ["reach the red cup", "reach the blue cup", "reach the green pot"]
    assert words.swaps(tasks[0], "colour", tasks)[0] == "reach the blue cup"


def test_a_paraphrase_keeps_what_is_asked_for() -> None:
    made = list(words.paraphrases("Put the cup next to the bowl"))
    assert "Place the cup next to the bowl" in made
    assert "Put the cup beside the bowl" in made
    assert all("cup" in text and "bowl" in text for text in made)


def test_every_frame_is_asked_under_its_own_words_first_and_none_twice() -> None:
    """RLinf's and starVLA's evaluations used one environment's instruction for all (starVLA issue 400)."""
    rows = plan(TASKS, TASKS, None, count=6)
    for text, row in zip(TASKS, rows, strict=True):
        assert row[0] == Variant(text, "true")
        assert row[1] == Variant("", "blank")
        assert len({variant.text for variant in row}) == len(row) == 6
        assert sum(variant.kind == "true" for variant in row) == 1


@given(st.integers(3, 12), st.integers(0, 5), st.lists(st.sampled_from(TASKS), min_size=1, max_size=9))
def test_plans_hold_their_promises(count: int, seed: int, given_texts: list[str]) -> None:
    for text, row in zip(given_texts, plan(given_texts, TASKS, None, count, seed=seed), strict=True):
        assert row[0].text == text
        assert 3 <= len(row) <= count
        assert len({variant.text for variant in row}) == len(row)
        assert {variant.kind for variant in row} <= set(KINDS)


def test_a_scene_says_which_tasks_are_familiar_in_it() -> None:
    near, far = split_by_scene(TASKS[1:], TASKS, np.array([0.7, 0.29, 0.01]))
    assert near == [TASKS[1]]
    assert far == [TASKS[2]]
    rows = plan(TASKS[:1], TASKS, np.array([[0.7, 0.29, 0.01]]), count=8)
    kinds = {variant.text: variant.kind for variant in rows[0]}
    assert kinds[TASKS[1]] == "swap"
    assert kinds[TASKS[2]] == "foreign"


def test_one_instruction_is_refused_unless_others_are_given() -> None:
    with pytest.raises(AptError, match="one instruction only"):
        plan(["open it"], ["open it"], None)
    rows = plan(["open it"], ["open it"], None, own=[Variant("close it", "swap")])
    assert Variant("close it", "swap") in rows[0]
    with pytest.raises(AptError, match="per-frame is 2"):
        plan(TASKS, TASKS, None, count=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instructions: [{text: a}, {text: a}]", "entry 2 repeats entry 1"),
        ("instructions: [{text: a, knd: swap}]", r"unknown key 'knd'.*kind"),
        ("instructions: [{text: a, kind: colur}]", "colour"),
        ("instructions: [{kind: swap}]", "has no `text`"),
        ("instructions: []", "holds no instructions"),
        ("- a", "holds no instructions"),
        ("a: [", "not valid YAML"),
    ],
)
def test_an_instruction_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(AptError, match=message):
        load(path)


def test_texts_on_the_command_line_and_a_missing_file(tmp_path: Path) -> None:
    assert variants_from(("open it", "close it"), None)[1] == Variant("close it", "swap")
    with pytest.raises(AptError, match="twice"):
        variants_from(("open it", "open it"), None)
    with pytest.raises(AptError, match="No instruction file"):
        variants_from((str(tmp_path / "gone.yaml"),), None)


def test_libero_pro_is_read_from_the_users_copy(tmp_path: Path) -> None:
    """Its shape: suite -> task -> texts (language), suite -> task -> text -> goal (task)."""
    folder = tmp_path / "libero_ood"
    folder.mkdir()
    (folder / "ood_language.yaml").write_text(
        "libero_goal:\n  KITCHEN_SCENE1_open_the_drawer: [Pull the drawer open]\n"
    )
    (folder / "ood_task.yaml").write_text("libero_goal:\n  open_the_drawer: {close the drawer: {goal: x}}\n")
    assert load_libero_pro(tmp_path) == [
        Variant("Pull the drawer open", "paraphrase", "open the drawer"),
        Variant("close the drawer", "swap", "open the drawer"),
    ]
    with pytest.raises(AptError, match=r"neither ood_language\.yaml nor ood_task\.yaml"):
        load_libero_pro(tmp_path / "elsewhere")
    (folder / "ood_task.yaml").write_text("[1, 2]")
    with pytest.raises(AptError, match="not what LIBERO-PRO writes"):
        load_libero_pro(tmp_path)


def test_rare_tasks_get_their_turn() -> None:
    """With 95 % of episodes on one task, uniform sampling would hardly ever look at the other."""
    tasks = ["often"] * 95 + ["rare"] * 5
    picked = spread_over_tasks(tasks, np.full(100, 10), 10, seed=0)
    assert sum(tasks[e] == "rare" for e, _ in picked) == 5
    assert len(set(picked)) == len(picked) == 10
    assert spread_over_tasks(tasks, np.full(100, 10), 10, seed=0) == picked
