"""The command line, the ways and the data of `apt-plugin trial`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.trial import held_out, options, plan, ways
from apt_plugin.trial.pilot import Episodes
from apt_plugin.vlm import Trained, resolved

OWN, EXPERT, WARM, GATED, TWO = ways.WAYS
PILOT: Any = SimpleNamespace(steps_flag="steps", expert_only={"policy.expert": "true"})


# -- the command line -------------------------------------------------------------------------------------------------


def test_flags_of_the_trial_and_of_the_recipe_are_taken_out_of_the_hosts_command() -> None:
    words = "train --steps=9 --trial.arms own,gated --trial.budget=0.2 --apt.noise_draws 4 --data me/kitchen"
    found, command = options.read(words.split())
    assert command == ["train", "--steps=9", "--data", "me/kitchen"]
    assert (found.arms, found.budget, found.ours) == (("own", "gated"), 0.2, (("noise_draws", "4"),))
    assert options.read(["train"]) == (options.Options(), ["train"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--recipe apt", "--recipe is what a trial finds out"),
        ("--trial.arm own", r"Did you mean 'arms'\?"),
        ("--trial.arms own", "takes two ways or more"),
        ("--trial.arms own,warmup", "Did you mean 'warm-up'"),
        ("--trial.budget 10", "--trial.budget is '10'; write a share of the steps between 0 and 1"),
        ("--trial.held_out 2", "--trial.held_out is '2'; write a share of the episodes between 0 and 1"),
        ("--trial.scenes --data me", "--trial.scenes names nothing: write --trial.scenes and a path"),
        ("--trial.equal flops", "--trial.equal flops is not here: no host counts the FLOPs"),
        ("--trial.hours none", "--trial.hours is 'none'; write a number of hours"),
        ("--trial.hours 3 --trial.budget 0.1", "both say how long the runs are"),
        ("--trial.seeds 0", "write a whole number, 1 or more"),
        ("--trial.keep maybe", "--trial.keep is 'maybe'"),
        ("--apt.cache DIR", "--apt.cache: a trial has a feature cache of its own"),
        ("--trial.cache true --trial.hours 3", "the first run that reads the cache makes it"),
        ("--apt.stage 1", "--apt.stage: a trial runs whole ways"),
    ],
)
def test_what_cannot_be_followed_is_refused(flags: str, words: str) -> None:
    with pytest.raises(AptError, match=words):
        options.read(["train", *flags.split()])


def test_each_way_takes_of_our_flags_what_is_its_own() -> None:
    given = [("noise_draws", "4"), ("frozen_share", "0.2"), ("untested", "true")]
    assert OWN.our_flags(PILOT, given) == []
    assert EXPERT.host_flags(PILOT) == {"policy.expert": "true"}
    assert WARM.our_flags(PILOT, given) == ["--recipe", "warmup", "--apt.frozen_share=0.2", "--apt.untested=true"]
    two = ["--recipe", "apt", "--apt.noise_draws=4", "--apt.untested=true"]
    assert TWO.our_flags(PILOT, given) == [*two, "--apt.stage1.share=0.1"]
    assert TWO.our_flags(PILOT, [("stage1.steps", "7")]) == ["--recipe", "apt", "--apt.stage1.steps=7"]
    assert GATED.our_flags(PILOT, given) == [*two, "--apt.stage1.steps=1"]
    looked = ["--apt.prove=false", "--apt.listen=0"]
    assert TWO.short_flags(PILOT, []) == ["--recipe", "apt", "--apt.stage1.share=0.1", *looked]


def fitting(trains: str, names: Sequence[str] = (), **unsupported: str) -> Any:
    """On a host whose command trains this much of the VLM."""

    def stages(request: Any) -> Any:
        return SimpleNamespace(recipe=resolved(request.recipe, lambda: Trained(trains, "its switch")))

    host: Any = SimpleNamespace(name="toy", unsupported=unsupported, stages=stages)
    return ways.fitting(host, ["train"], names)


def test_ways_that_come_to_the_same_are_left_out_with_the_reason_or_refused_where_they_are_named() -> None:
    assert [way.name for way in fitting("full")[0]] == [way.name for way in ways.WAYS]
    found, why = fitting("frozen")
    assert [way.name for way in found] == ["own", "gated", "two-stage"]
    assert set(why) == {"expert-only", "warm-up"}
    with pytest.raises(AptError, match="names warm-up, and that does not fit this command: your own command trains"):
        fitting("frozen", ("own", "warm-up"))
    _, why = fitting("full", **{"expert-only": "No flag freezes it."})
    assert why == {"expert-only": "No flag freezes it"}


# -- the data ---------------------------------------------------------------------------------------------------------


def test_some_of_each_instruction_is_held_out_and_every_instruction_is_trained_on() -> None:
    labels = {number: f"task {number % 3}" for number in range(30)} | {30: "once", 31: ""}
    found = held_out.split(labels, 0.2)
    assert len(found.held_out) == 6
    assert sorted([*found.train, *found.held_out]) == list(range(32))
    assert {labels[e] for e in found.train} == set(labels.values())
    assert {30, 31} <= set(found.train)
    assert found == held_out.split(labels, 0.2)


def test_pairs_are_held_out_whole_and_both_halves_stay_in_training() -> None:
    labels = {number: f"task {number % 4}" for number in range(64)}
    scenes = {number: f"scene {number // 4 % 4}" for number in range(64)}
    found = held_out.split(labels, 0.2, scenes)
    unseen = {(scenes[e], labels[e]) for e in found.pairs}
    seen = {(scenes[e], labels[e]) for e in found.train}
    assert len(unseen) == 3
    assert not unseen & seen
    assert unseen & {(scenes[e], labels[e]) for e in found.held_out} == set()
    assert {scene for scene, _ in seen} == set(scenes.values())
    assert {text for _, text in seen} == set(labels.values())


def test_where_nothing_can_be_spared_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(AptError, match="3 episodes have an instruction, and no instruction has more than 1"):
        held_out.split({0: "a", 1: "b", 2: "c", 3: ""}, 0.2)
    (tmp_path / "scenes.json").write_text('["desk"]')
    with pytest.raises(AptError, match="names no scene of 1 episodes, the first is 1"):
        held_out.read_scenes(tmp_path / "scenes.json", [0, 1])
    with pytest.raises(AptError, match="there is no such file"):
        held_out.read_scenes(tmp_path, [0, 1])


def test_data_that_cannot_teach_ends_a_trial_before_anything_is_trained() -> None:
    rng = np.random.default_rng(0)
    tasks = [f"open drawer {'left' if n % 2 else 'right'}" for n in range(60)]
    labels = dict(enumerate(tasks))
    free, bound = rng.normal(size=(60, 12)), np.array([[n % 2] * 12 for n in range(60)]) + rng.normal(size=(60, 12)) / 9
    assert plan.labels(json.loads(json.dumps(plan.stated(Episodes(labels, free, tasks))))) == labels
    with pytest.raises(AptError, match=r"THE DATA NEVER NEEDED LANGUAGE.*Nothing was trained"):
        plan.labels(plan.stated(Episodes(labels, bound, tasks)))
    with pytest.raises(AptError, match=r"one instruction: 'wipe'.*Nothing was trained"):
        plan.labels(plan.stated(Episodes({0: "wipe", 1: "wipe"}, free[:2], ["wipe", "wipe"])))


def test_another_trials_folder_is_refused(tmp_path: Path) -> None:
    plan.settle(tmp_path, {"steps": 3, "train": [1]})
    plan.settle(tmp_path, {"steps": 3, "train": [1]})
    with pytest.raises(AptError, match="holds a trial with another steps"):
        plan.settle(tmp_path, {"steps": 4, "train": [1]})
