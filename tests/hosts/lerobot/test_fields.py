"""Every field of the recipe through every door of lerobot: it arrives and acts, or is refused in words."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import draccus
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from torch.utils.flop_counter import FlopCounterMode

from apt_plugin import freeze
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
from apt_plugin.hosts.lerobot.groups import optimizer_groups, part_of
from apt_plugin.launch import split
from apt_plugin.run import staged
from apt_plugin.vlm import Trained, resolved
from tests.hosts.fields import ACTING, FIELDS, NO_GOALS, values_of
from tests.hosts.lerobot import tiny

BASE = ["--policy.pretrained_path=lerobot/base", "--policy.device=cpu", "--dataset.repo_id=me/set"]
# What a family of policies refuses, and what it says.
TRAINS = {"pi05": "full", "groot": "frozen"}  # of the VLM, by lerobot's own defaults
REFUSED = {"pi05": {}, "groot": {"cache_kind": "GR00T stores backbone states", **NO_GOALS}}


def parsed(flags: list[str]) -> Any:
    """The policy config as lerobot's own parser makes it."""
    return draccus.parse(TrainPipelineConfig, args=flags).policy


def flags_of(door: str, family: str, folder: Path, chosen: list[str]) -> list[str]:
    """lerobot-train's flags behind a door; the launcher's are those of Stage 1."""
    if door == "native":
        ours = [flag.replace("--apt.", "--policy.recipe.") for flag in chosen]
        return [f"--policy.type={family}_apt", *BASE, *ours]
    line = [f"--policy.type={family}", *BASE, f"--output_dir={folder}", "--recipe=apt", *chosen]
    request = split(["lerobot-train", *line])
    command = list(LerobotAdapter().stages(request).command("1").argv)
    return command[command.index("lerobot-train") + 1 :]


def chain(error: BaseException | None) -> list[BaseException]:
    """An exception and all that it was raised from."""
    return [] if error is None else [error, *chain(error.__cause__ or error.__context__)]


@pytest.mark.parametrize("family", ["pi05", "groot"])
@pytest.mark.parametrize("door", ["launcher", "native"])
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_arrives_at_the_policy_or_is_refused(name: str, door: str, family: str, tmp_path: Path) -> None:
    chosen = FIELDS[name]
    if name in REFUSED[family]:
        with pytest.raises(Exception) as error:  # noqa: PT011  # draccus hides what a config raises behind its own
            parsed(flags_of(door, family, tmp_path, chosen.flags(name)))
        told = [one for one in chain(error.value) if isinstance(one, AptError)]
        assert REFUSED[family][name] in str(told[0])
        assert door == "native" or told == [error.value]
        return
    recipe = parsed(flags_of(door, family, tmp_path, chosen.flags(name))).recipe
    assert recipe == resolved(chosen.recipe(name), lambda: Trained(TRAINS[family], "no flag says otherwise"))
    assert values_of(recipe)[name] == chosen.value


def test_chosen_taps_are_refused_where_nothing_would_follow_them(tok: str) -> None:
    """Accepted, recorded and not applied: π fuses at its own depth."""
    with pytest.raises(
        AptError, match=r"fusion\.taps is '1,3'; in π a fusion layer reads the VLM layer at its own depth"
    ):
        tiny.config("pi05", tok, 2, {"fusion.taps": "1,3"})


@pytest.mark.parametrize("name", FIELDS)
def test_an_evaluation_applies_a_field_or_refuses_it(name: str, likelihood: Path, monkeypatch) -> None:
    """All of them were dropped without a word."""
    calls: list[list[str]] = []
    monkeypatch.setattr(staged, "call", lambda command: calls.append(list(command.argv)) or 0)
    line = ["lerobot-eval", f"--policy.path={likelihood}", "--recipe=apt", *FIELDS[name].flags(name)]
    if name not in ACTING:
        with pytest.raises(AptError, match=r"is settled when a policy is trained"):
            staged.carry_out(LerobotAdapter(), split(line))
        assert not calls
        return
    assert staged.carry_out(LerobotAdapter(), split(line)) == 0
    overrides = [flag.replace("--policy.", "--") for flag in calls[0] if flag.startswith("--policy.recipe")]
    config: Any = PreTrainedConfig.from_pretrained(likelihood, cli_overrides=overrides)  # as lerobot-eval reads it
    assert config.recipe.guidance_scale == FIELDS[name].value


def test_guidance_is_refused_where_nothing_could_follow_it(trained: Path) -> None:
    guided = ["--recipe=apt", "--apt.guidance_scale=2"]
    with pytest.raises(AptError, match="hears no instruction"):
        staged.carry_out(
            LerobotAdapter(), split(["lerobot-eval", f"--policy.path={trained / 'last' / 'pretrained_model'}", *guided])
        )
    with pytest.raises(AptError, match=r"names none by --policy\.path"):
        staged.carry_out(LerobotAdapter(), split(["lerobot-eval", "--policy.type=pi05", *guided]))


def test_a_resumed_run_keeps_its_recipe_and_says_so(tmp_path: Path) -> None:
    line = ["lerobot-train", f"--config_path={tmp_path / 'train_config.json'}", "--resume=true", "--recipe=apt"]
    with pytest.raises(AptError, match="a resumed run keeps its recipe"):
        staged.carry_out(LerobotAdapter(), split([*line, "--apt.noise_draws=2"]))


# -- what a field does once it has arrived (π0.5) -------------------------------------------------------------


class Made:
    """Stage 1 and Stage 2 of a recipe, from the tiny base; gates open by different amounts."""

    def __init__(self, recipe: Any, plain: Path, tok: str, folder: Path):
        # no processors are saved beside the prior, so there is nothing that Stage 2 could normalise with
        values = values_of(dataclasses.replace(recipe, norm_stats="data"))
        torch.manual_seed(0)
        self.first = tiny.stage1("pi05", plain, tok, values)
        self.first.save_pretrained(folder)
        torch.manual_seed(0)
        self.second = tiny.stage2("pi05", folder, tok, values)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in self.second.named_parameters():
            if freeze.added(name):
                parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)

    def losses(self) -> list[tuple[float, bool]]:
        """(loss, whether the blanked one was taken) of eight training passes of Stage 2."""
        inputs, found = tiny.batch(self.second, ["push the block", "pick red"]), []
        self.second.train()
        for step in range(8):
            self.second.apt_run.step = step
            torch.manual_seed(0)
            loss, logged = self.second.forward(dict(inputs))
            assert "apt/gate_mean" in logged
            assert not {"gate_mean", "blank_gap", "blank_gap_train"} & logged.keys()  # one name in the host's tracker
            found.append((float(loss.detach()), "apt/blank_gap" in logged))
        return found

    def added(self) -> dict[str, tuple[int, ...]]:
        return {n: tuple(p.shape) for n, p in self.second.named_parameters() if freeze.added(n)}

    def trained(self) -> set[str]:
        return {n for n, p in self.second.named_parameters() if p.requires_grad}

    def rates(self) -> dict[str, float]:
        owner = {id(p): part_of(n) for n, p in self.second.named_parameters()}
        return {
            owner[id(p)]: group["lr"] for group in optimizer_groups(self.second, self.second.config)
            for p in group["params"]
        }  # fmt: skip

    def first_numbers(self) -> list[float]:
        return [float(p.detach().flatten()[0]) for n, p in self.first.named_parameters() if "gemma_expert" in n]

    def work(self) -> int:
        """Counted operations of a Stage-1 pass: fewer where the words are left out, more with more draws."""
        with FlopCounterMode(display=False) as counted:
            self.first.forward(tiny.batch(self.first, ["push the block", "pick red"]))
        return counted.get_total_flops()

    def hears(self) -> bool:
        """Whether the closed prior of Stage 2 depends on the words."""
        for name, parameter in self.second.named_parameters():
            if freeze.added(name) and name.endswith(("gate.w", "o_proj.weight")):
                parameter.data.zero_()
        self.second.eval()
        said: list[list[str | None]] = [["push the block"], ["pick the cup"]]
        losses = [float(self.second.forward(tiny.batch(self.second, words))[0].detach()) for words in said]
        return losses[0] != losses[1]

    def acts(self) -> float:
        noise = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0))
        inputs = tiny.batch(self.second, ["push the block"])
        return float(self.second.predict_action_chunk(inputs, noise=noise).sum())


EFFECTS = {
    "prefix": Made.hears, "drop_instruction": Made.work, "noise_draws": Made.work, "expert": Made.first_numbers,
    "vlm": Made.trained, "vlm_lr_scale": Made.rates, "inherited": Made.trained, "inherited_lr_scale": Made.rates,
    "fusion_lr_scale": Made.rates, "prior_loss": Made.losses, "freeze": Made.trained, "fusion.kind": Made.added,
    "fusion.every": Made.added, "fusion.gate": Made.added, "fusion.feed_forward": Made.added,
    "guidance_scale": Made.acts, "gap_every": Made.losses,
}  # fmt: skip
# Seen where they can be seen, with data sets and a feature cache: test module, test.
ELSEWHERE = {
    "mix.repo_id": ("test_training", "test_stage2_on_labelled_and_unlabelled_data"),
    "mix.root": ("test_training", "test_stage2_on_labelled_and_unlabelled_data"),
    "mix.share": ("test_training", "test_a_mix_has_its_share_and_its_labels"),
    "norm_stats": ("test_training", "test_stage2_keeps_the_statistics_of_its_prior"),
    "prior.goal": ("test_goal", "test_each_frame_is_told_the_state_at_the_end"),
    "prior.goal_at": ("test_goal", "test_each_frame_is_told_the_state_at_the_end"),
    "prior.goal_share": ("test_goal", "test_a_share_of_the_samples_is_told"),
    "frozen_share": ("test_warmup", "test_stage_2_keeps_the_vlm_still_for_its_share_of_the_steps"),
    "cache": ("test_cache", "test_both_stages_from_a_cache_equal_training_without"),
    "cache_kind": ("test_cache", "test_both_stages_from_a_cache_equal_training_without"),
    "cache_views": ("test_cache", "test_augmented_views_are_stored_and_drawn_from"),
}
# π fuses at its own depth, which is what "spread" asks for: there is no other effect to see.
SAME = {"fusion.taps"}


def test_every_field_has_its_place_here() -> None:
    assert sorted([*EFFECTS, *ELSEWHERE, *SAME]) == sorted(FIELDS)
    for module, test in ELSEWHERE.values():
        assert hasattr(importlib.import_module(f"tests.hosts.lerobot.{module}"), test)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_field_acts(name: str, plain: dict[str, Path], tok: str, tmp_path: Path) -> None:
    chosen, look = FIELDS[name], EFFECTS[name]
    recipes = (chosen.without(), chosen.without(), chosen.recipe(name))
    without, again, after = (
        look(Made(recipe, plain["pi05"], tok, tmp_path / str(i))) for i, recipe in enumerate(recipes)
    )
    assert without == again  # or chance would be taken for an effect
    assert without != after, json.dumps(chosen.means)
