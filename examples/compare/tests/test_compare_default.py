"""What a user gets without choosing anything is an arm that was compared, and the README's first command is that arm.

It was not: `--recipe apt` ran the arm that stood last in the README's own table. What an arm cannot say is not compared
here: its Stage 1 read unlabelled demonstrations beside the labelled ones, which the README says.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from apt_compare.board import Board, shared
from apt_compare.plan import read, results, shipped
from apt_compare.spec import Arm
from apt_compare.spec_files import load_all
from apt_plugin.hosts.gr00t.adapter import GrootAdapter
from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
from apt_plugin.launch import split
from apt_plugin.recipe import Recipe
from apt_plugin.vlm import Trained, resolved

CONFIGS, PROJECT = shipped(), Path(__file__).parents[1]
README = (PROJECT.parents[1] / "README.md").read_text()
COMMANDS = [block for block in re.findall(r"```bash\n(.*?)```", README, re.S) if "--recipe" in block]
ARMS = load_all(Arm, CONFIGS / "arms")


def first_command() -> list[str]:
    return shlex.split(COMMANDS[0].replace("\\\n", " "))[2:]  # behind `apt-plugin run`


def arm_of(recipe: Recipe, share: float) -> str:
    """The arm that trains by this recipe, acting without guidance."""
    found = [name for name, arm in ARMS.items() if _is(arm, recipe, share)]
    assert len(found) == 1, (recipe, found)
    return found[0]


def _is(arm: Arm, recipe: Recipe, share: float) -> bool:
    first = arm.stage1
    if arm.policy != "apt" or first is None or arm.guidance[0] != recipe.guidance_scale:
        return False
    extras = [field.name for field in dataclasses.fields(arm) if field.name in OFF and getattr(arm, field.name)]
    same = (first.share, first.extra, first.draws) == (share, 0, recipe.noise_draws) and first.data == "unlabelled"
    return same and not extras and _plain(arm.resolved()) == _plain(recipe)


OFF = ("vlm_frozen_share", "insulate", "token_loss", "dropout", "unlabelled", "self_label", "ratio", "contrast",
       "prior_weight", "gate_push")  # fmt: skip


def _plain(recipe: Recipe) -> Recipe:
    """Nothing reads the rate of a VLM that stays frozen."""
    return dataclasses.replace(recipe, vlm_lr_scale=0) if recipe.vlm == "frozen" else recipe


def test_the_readmes_first_training_command_is_an_arm_of_the_comparison():
    request = split(first_command())
    run = LerobotAdapter().stages(request)
    assert run is not None
    assert arm_of(run.recipe, request.share) == "apt_tenth_even"
    assert run.budget.steps == {"1": 2000, "2": 18000}  # a tenth, as that arm


@pytest.mark.parametrize(
    ("flags", "arm"), [([], "apt_tenth_prior"), (["--tune-llm", "--tune-visual"], "apt_tenth_even")]
)
def test_so_is_the_default_of_isaac_groot(flags, arm):
    request = split(["gr00t/experiment/launch_finetune.py", "--output-dir", "x", "--recipe", "apt", *flags])
    run = GrootAdapter().stages(request)
    assert run is not None
    assert arm_of(run.recipe, request.share) == arm


def test_so_is_the_default_of_openpi():
    """Its configs freeze nothing, which tests/hosts/openpi/test_budget.py reads off the real one."""
    request = split(["scripts/train.py", "pi05_libero", "--recipe", "apt"])
    assert arm_of(resolved(request.recipe, lambda: Trained("full", "its config")), request.share) == "apt_tenth_even"


@pytest.fixture(scope="module")
def made():
    return Board(shared(results(PROJECT / "results.csv"), read(CONFIGS)))


@pytest.mark.parametrize(
    ("setting", "arm"),
    [("random", "apt_tenth_even"), ("random", "stock_full"), ("little", "apt_tenth_even"), ("little", "stock_full"),
     ("little", "gated_full_even @1.5"), ("random", "gated_full_even @1.5"), ("random", "warmup"),
     ("little", "warmup"), ("random", "apt_tenth_prior"),
     ("random", "stock_frozen")],
)  # fmt: skip
def test_the_readme_quotes_the_results_of_that_arm_and_its_rivals(made, setting, arm):
    """Better or worse: where the recipe lost stands beside where it won."""
    found = made.rate(setting, "steps", arm, made.unseen)
    assert found.seeds == 5
    value, low, high = (f"{100 * number:.0f}" for number in (found.value, found.low, found.high))
    assert f"{value} % ({low} to {high})" in " ".join(README.split()), (setting, arm)


def test_the_readme_is_short():
    assert len(README.split()) <= 800
