"""Hindsight goals, worlds that differ by seed, trained experts, and what is kept of the VLM: the newer instrument."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("lerobot")
import torch
from lerobot.utils.constants import OBS_LANGUAGE_TOKENS

from apt_compare.spec import Arm, Stage1
from apt_compare.training import experts, goals, policies
from apt_compare.training.pools import every
from apt_compare.training.retention import marks
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.names import GOAL_MASK
from apt_plugin.tabletop.world import World
from compare_cases import SMALL, a_run

FIRST = Stage1(draws=1)
TOLD = Arm("told", policy="apt", stage1=FIRST, goal="state", goal_share=0.5)
SAID = Arm("said", stage1=FIRST, goal="location")
MIXED = Arm("mixed", unlabelled=0.5, goal="location")


def test_a_goal_is_where_the_demonstration_ended():
    """Not what it was told to do: of a wordless one nobody knows that."""
    episodes = World().training(32)
    (frames,) = every(episodes, labelled=False)
    where = goals.ends(frames).reshape(32, frames.length, 3)
    places = episodes.places[np.arange(32), episodes.named]
    assert np.abs(where[:, :, :2] - places[:, None]).max() < 0.2  # a far one is not reached within the chunk of frame 1
    assert np.allclose(where[:, 0, :2], places, atol=1e-5)
    assert ((where[:, 0, 2] <= 0.5) == episodes.closes()).all()
    assert goals.words(np.array([[0.9, 0.1, 1.0], [0.1, 0.9, 0.0]])) == ["reach <loc02>", "grasp <loc06>"]


def test_the_prompt_of_a_told_frame_has_its_goal_and_that_of_an_untold_one_has_not(out, tmp_path):
    run = a_run(out, tmp_path, TOLD)
    pool = run.pool(run.first_body(), True)
    rows = torch.arange(len(pool))
    told, untold = (pool.batch(rows, wording) for wording in ("true", "blank"))
    assert told[GOAL_MASK].any(1).all()
    assert not untold[GOAL_MASK].any()
    kept = ~told[GOAL_MASK] & (told[OBS_LANGUAGE_TOKENS] > 0)
    assert torch.equal(told[OBS_LANGUAGE_TOKENS] * kept, untold[OBS_LANGUAGE_TOKENS])


@pytest.mark.parametrize("policy", ["stock", "apt"])
def test_beside_labelled_frames_the_unlabelled_ones_are_told_their_goal_and_may_be_told_nothing(out, tmp_path, policy):
    run = a_run(out, tmp_path, dataclasses.replace(MIXED, policy=policy))
    prior = run.prior(0)[0] if policy == "apt" else None
    pool = run.pool(run.last_body(prior), False)
    said, none = (pool.said[pool.wordings.index(name)] for name in ("true", "blank"))
    assert 0 < pool.labelled < len(pool)
    assert said.all()
    assert not none.any()


@pytest.mark.parametrize("arm", [TOLD, SAID], ids=lambda arm: arm.name)
def test_both_stages_train_and_the_second_starts_from_the_first(out, tmp_path, arm):
    run = a_run(out, tmp_path, arm)
    prior, cost = run.prior(2)
    assert len(cost["curve"]) == 2
    first, second = run.first_body(), run.last_body(prior)
    moved = {
        name for name, p in second.policy.named_parameters()
        if "apt_" not in name and not torch.equal(p, dict(first.policy.named_parameters())[name])
    }  # fmt: skip
    assert any(".gemma_expert." in name for name in moved)
    assert not [name for name in moved if ".paligemma." in name]


def test_a_goal_without_a_first_stage_or_for_the_other_policy_is_refused():
    for wrong in ({"stage1": None}, {"policy": "stock"}, {"goal_share": 0.0}):
        with pytest.raises(AptError, match="goal"):
            dataclasses.replace(TOLD, **wrong)
    for wrong in ({"unlabelled": 0.0}, {"goal": "state"}, {"self_label": 0.3}):
        with pytest.raises(AptError, match="goal"):
            dataclasses.replace(MIXED, **wrong)


def test_seeds_have_a_world_and_a_vlm_each_where_the_setting_says_so(out, tmp_path):
    """One world and two VLMs made its luck a finding."""
    for worlds, count in (("each", 3), ("one", 1)):
        setting = dataclasses.replace(SMALL, worlds=worlds)
        runs = [a_run_of(out, tmp_path / f"{worlds}{seed}", setting, seed) for seed in range(3)]
        assert len({run.world.seed for run in runs}) == count
        assert len({run.base.name for run in runs}) == count
        assert len({run.world.slots.tobytes() for run in runs}) == count


def a_run_of(out, folder, setting, seed):
    from apt_compare.training import job

    return job.Run(setting, Arm("a"), seed, 3e-3, out, folder)


def test_a_trained_expert_is_one_for_all_arms_and_has_not_met_what_the_tests_keep_back(out, tmp_path):
    """The VLM is the grounded one to the bit: what the expert learned elsewhere is all that differs."""
    runs = [a_run(out, tmp_path / arm, Arm(arm), expert="trained") for arm in ("a", "b")]
    assert runs[0].start == runs[1].start
    chance = a_run(out, tmp_path / "c", Arm("c"))
    ours, other = (dict(policies.stock(run.start, run.arm).policy.named_parameters()) for run in (runs[0], chance))
    moved = {name for name in ours if not torch.equal(ours[name], other[name])}
    assert moved
    assert not [name for name in moved if ".paligemma." in name]
    world = runs[0].world
    met = experts.mixture(world, 200, 0)
    assert len(met) == 200
    named = {tuple(map(int, pair)) for pair in met.pairs[np.arange(200), met.named]}
    assert not named & set(world.never_named)
    assert named - {tuple(map(int, pair)) for pair in world.slots[:, :2].reshape(-1, 2)}
    with pytest.raises(AptError, match="expert: trained is there for body: pi05 alone"):
        dataclasses.replace(SMALL, body="groot", expert="trained")


def test_retention_is_asked_through_training_where_the_vlm_trains_and_once_where_it_does_not(out, tmp_path):
    assert marks(1500) == [300, 600, 900, 1200, 1500]
    for arm, steps in ((Arm("a"), [0]), (Arm("b", vlm="full"), [0, 1, 2, 3, 4])):
        run = a_run(out, tmp_path / arm.name, arm)
        run.last_stage(4, None)
        assert run.retention is not None
        assert [step for step, _, _ in run.retention.found] == steps
        assert all(0 <= value <= 1 for _, *both in run.retention.found for value in both)
