"""A Stage 1 that is told where its demonstration ends, for a share of its samples; Stage 2 and serving never are.

Contract 1 becomes "nothing but the goal"; contract 2 is Stage 1 without one.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import draccus
import numpy as np
import pytest
import torch
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies import make_pre_post_processors

from apt_plugin import proofs
from apt_plugin.backends.torch_draws import chosen
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import goals
from apt_plugin.hosts.lerobot.flow import PromptBatch
from apt_plugin.hosts.lerobot.prove import LerobotSubject, open_subject
from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets, tiny

GOAL = {"prior.goal": "state"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Path], tok: str) -> Path:
    """A Stage-1 checkpoint of that recipe, with its processors."""
    folder = tmp_path_factory.mktemp("told") / "pi05"
    policy = tiny.stage1("pi05", plain["pi05"], tok, GOAL)
    for processor in make_pre_post_processors(policy.config, dataset_stats=None):
        processor.save_pretrained(folder)
    policy.save_pretrained(folder)
    return folder


def second_of(told: Path, first: LerobotSubject) -> LerobotSubject:
    policy = tiny.stage2("pi05", told, first.policy.config.tokenizer_name, GOAL)
    return LerobotSubject(policy, first.preprocessor, told, first.replaced_names)


def with_goal(policy: Any, goal: bool = True) -> dict[str, Any]:
    """A processed batch of four, whose samples have a goal or not; the same otherwise."""
    steps, numbers = tiny.preprocessor(policy), torch.Generator().manual_seed(0)
    raw: dict[str, Any] = {name: torch.rand(4, 3, 28, 28, generator=numbers) for name in tiny.CAMERAS}
    states = torch.rand(4, 2, tiny.STATE, generator=numbers) * 2 - 1
    raw["action"] = torch.rand(4, 5, tiny.ACTION, generator=numbers) * 2 - 1
    return steps({**raw, "observation.state": states if goal else states[:, 0], "index": torch.arange(4)})


def test_a_stage1_that_is_told_goals_knows_nothing_but_them(told: Path) -> None:
    """Bits at loss, gradients and actions under other words, with a goal and without; the goal itself must matter."""
    found = {proof.what: proof.passed for proof in proofs.no_leak(open_subject(told))}
    assert all(found.values()), found
    told_a_goal = [what for what in found if what.endswith(", told a goal")]
    assert len(told_a_goal) == 10 == sum(f"{what}, told a goal" in told_a_goal for what in found)
    assert "actions, other goal" in found


def test_a_goal_that_reaches_nothing_fails_the_proof(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = PromptBatch.of
    monkeypatch.setattr(PromptBatch, "of", lambda batch: host(batch).told(False))
    found = {proof.what: proof.passed for proof in proofs.no_leak(open_subject(told))}
    assert [what for what, passed in found.items() if not passed] == ["actions, other goal"]


def test_the_switch_is_exact_without_a_goal_alone(told: Path) -> None:
    first = open_subject(told)
    before = {layout: first.evaluate(proofs.PLAIN, one_layout=layout) for layout in (True, False)}
    with_one = first.told(0).evaluate(proofs.PLAIN)
    second = second_of(told, first)
    found = proofs.exact_switch(before, second)
    assert [proof.passed for proof in found] == [True] * 4, found
    assert np.abs(with_one.actions - before[True].actions).max() > 1e-4
    assert all(proof.passed for proof in proofs.alive(second))


def test_without_a_goal_it_is_the_stage1_of_a_recipe_that_has_none(told: Path, plain, tok: str) -> None:
    """A goal's tokens stand behind everything that is kept, so that leaving them out moves no other token."""
    noise = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
    ours, other = (
        tiny.stage1("pi05", plain["pi05"], tok, {**recipe, "drop_instruction": False}) for recipe in (GOAL, {})
    )
    want = other.predict_action_chunk(with_goal(other, goal=False), noise=noise)
    assert torch.equal(ours.predict_action_chunk(with_goal(ours, goal=False), noise=noise), want)  # as it is served
    assert torch.equal(ours.predict_action_chunk(with_goal(ours), noise=noise), want)  # whatever it is handed


def test_training_is_told_goals_and_an_evaluation_is_not(plain: dict[str, Path], tok: str) -> None:
    policy = tiny.stage1("pi05", plain["pi05"], tok, {**GOAL, "prior.goal_share": 0.99})

    def losses(train: bool) -> list[float]:
        policy.train(train)
        return [float(policy.forward(with_goal(policy, goal))[0].detach()) for goal in (True, False)]

    evaluated = losses(False)
    assert evaluated[0] == pytest.approx(evaluated[1], abs=1e-6)
    trained = losses(True)
    assert abs(trained[0] - trained[1]) > 1e-4


def test_a_share_of_the_samples_is_told() -> None:
    """Drawn anew at each step, by frame and step alone: neither a restart nor other processes change it."""
    actions, frames = torch.zeros(4000, 1, 1), torch.arange(4000)
    picked = chosen(0.25, actions, 3, frames)
    assert picked.float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(picked[7:9], chosen(0.25, actions[7:9], 3, frames[7:9]))
    both = (picked & chosen(0.25, actions, 4, frames)).float().mean()
    assert both == pytest.approx(0.0625, abs=0.02)


@pytest.mark.parametrize(("at", "ahead"), [("chunk", 5), ("episode", 10**6)])
def test_each_frame_is_told_the_state_at_the_end(data, tok: str, tmp_path: Path, at: str, ahead: int) -> None:
    from lerobot.datasets.factory import make_train_eval_datasets

    flags = datasets.stage1(data["labelled"], tmp_path, tok, tmp_path / "out", policy__recipe__prior__goal="state")
    cfg = draccus.parse(TrainPipelineConfig, args=[*flags, f"--policy.recipe.prior.goal_at={at}"])
    with goals.reading(cfg):
        read, _ = make_train_eval_datasets(cfg)
    states = torch.stack([torch.as_tensor(row) for row in read.hf_dataset["observation.state"]])
    starts, ends = (read.meta.episodes[f"dataset_{side}_index"] for side in ("from", "to"))
    for frame in (0, 4, starts[1], ends[1] - 1):
        episode = next(k for k, end in enumerate(ends) if frame < end)
        goal = states[min(frame + ahead, ends[episode] - 1)]
        assert torch.equal(read[frame]["observation.state"], torch.stack([states[frame], goal]))


def test_both_stages_in_the_hosts_own_script(data, plain: dict[str, Path], tok: str, tmp_path: Path) -> None:
    """The goal changes what is learnt, and Stage 2 goes on without one."""
    curves = {}
    for goal in ("none", "state"):
        flags = datasets.stage1(data["labelled"], plain["pi05"], tok, tmp_path / goal, steps=2)
        datasets.lerobot_train(*flags, f"--policy.recipe.prior.goal={goal}")
        folder = tmp_path / goal / "checkpoints/last/pretrained_model"
        curves[goal] = read_record(folder).curve.points("loss")[1].tolist()
    assert curves["none"] != curves["state"]
    datasets.lerobot_train(*datasets.stage2(data["labelled"], folder, tok, tmp_path / "two", steps=1))
    record = read_record(tmp_path / "two/checkpoints/last/pretrained_model")
    assert (record.stage, record.recipe.prior.goal) == (2, "state")


def test_what_cannot_hold_a_goal_is_refused(tok: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for more, words in (
        ({"prefix": "native"}, "prefix=native lets Stage 1 read the words"),
        ({"cache": "features"}, "holds a frame's prefix without a goal"),
        ({"prior.goal_share": 1.0}, "some samples must have none"),
    ):
        with pytest.raises(AptError, match=words):
            tiny.config("pi05", tok, 1, {**GOAL, **more})
    with pytest.raises(AptError, match="so far lerobot's pi05 alone"):
        tiny.config("pi0", tok, 1, GOAL)
    with pytest.raises(AptError, match="use_relative_actions"):
        tiny.config("pi05", tok, 1, GOAL, use_relative_actions=True)
    cfg = SimpleNamespace(policy=tiny.config("pi05", tok, 1, GOAL), dataset=SimpleNamespace(streaming=True))
    with pytest.raises(AptError, match="streamed data"), goals.reading(cfg):
        pass


def test_by_the_hosts_own_command_it_is_refused(data, plain: dict[str, Path], tok: str, tmp_path: Path) -> None:
    """Without the launcher nothing reads a second state: it would train without a goal and say that it had one."""
    more: dict[str, int] = {"policy__tokenizer_max_length": 40, "steps": 1}
    flags = datasets.stage1(data["labelled"], plain["pi05"], tok, tmp_path / "out", **more)
    with pytest.raises(AptError, match=r"recipe\.prior\.goal needs the launcher"):
        datasets.lerobot_train(*flags, "--policy.recipe.prior.goal=state", native=True)
