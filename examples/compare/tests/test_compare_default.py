"""What a user gets without choosing anything is an arm that was compared, and the README's first command is that arm.

It was not: `--recipe apt` ran the arm that stood last in the README's own table. An arm has no Stage 1 where the recipe
has one of a single step.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from apt_compare import worlds
from apt_compare.board import Board, shared
from apt_compare.plan import read, results, shipped
from apt_compare.spec import Arm
from apt_compare.spec_files import load_all
from apt_compare.stats import rate
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


def arms_of(recipe: Recipe, share: float) -> list[str]:
    """The arms that train by this recipe, acting without guidance; two where one of them is also tried with it."""
    return [name for name, arm in ARMS.items() if _is(arm, recipe, share)]


def _is(arm: Arm, recipe: Recipe, share: float) -> bool:
    if arm.policy != "apt" or arm.stage1 is not None or share or arm.guidance[0] != recipe.guidance_scale:
        return False
    extras = [field.name for field in dataclasses.fields(arm) if field.name in OFF and getattr(arm, field.name)]
    warm = recipe.vlm == "frozen" or arm.vlm_frozen_share == recipe.frozen_share
    return warm and not extras and _plain(arm.resolved()) == _plain(recipe)


OFF = ("insulate", "token_loss", "dropout", "unlabelled", "self_label", "ratio", "contrast",
       "prior_weight", "gate_push")  # fmt: skip


def _plain(recipe: Recipe) -> Recipe:
    """Without the share that an arm keeps elsewhere, and the rate of a VLM that stays frozen, which nothing reads."""
    plain = dataclasses.replace(recipe, frozen_share=0)
    return dataclasses.replace(plain, vlm_lr_scale=0) if recipe.vlm == "frozen" else plain


def test_the_readmes_first_training_command_is_an_arm_of_the_comparison():
    request = split(first_command())
    run = LerobotAdapter().stages(request)
    assert run is not None
    assert arms_of(run.recipe, request.share) == ["gated_full_even"]
    assert run.budget.steps == {"1": 1, "2": 19999}


@pytest.mark.parametrize(
    ("flags", "arms"),
    [([], ["gated_frozen", "gated_one_stage"]), (["--tune-llm", "--tune-visual"], ["gated_full_even"])],
)
def test_so_is_the_default_of_isaac_groot(flags, arms):
    request = split(["gr00t/experiment/launch_finetune.py", "--output-dir", "x", "--recipe", "apt", *flags])
    run = GrootAdapter().stages(request)
    assert run is not None
    assert arms_of(run.recipe, request.share) == arms


def test_so_is_the_default_of_openpi():
    """Its configs freeze nothing, which tests/hosts/openpi/test_budget.py reads off the real one."""
    request = split(["scripts/train.py", "pi05_libero", "--recipe", "apt"])
    recipe = resolved(request.recipe, lambda: Trained("full", "its config"))
    assert arms_of(recipe, request.share) == ["gated_full_even"]


QUOTED = ("stock_full", "gated_full_even", "gated_full_even @1.5", "warmup", "apt_tenth_even")


@pytest.fixture(scope="module")
def made():
    return Board(shared(results(PROJECT / "results.csv"), read(CONFIGS)))


@pytest.mark.parametrize(
    ("setting", "arm"),
    [*((setting, arm) for setting in ("random", "little") for arm in QUOTED), ("random", "gated_one_stage"),
     ("random", "stock_frozen")],
)  # fmt: skip
def test_the_readme_quotes_the_results_of_that_arm_and_its_rivals(made, setting, arm):
    """Better or worse: where the recipe lost stands beside where it won."""
    found = made.rate(setting, "steps", arm, made.unseen)
    assert found.seeds == 5
    value, low, high = (f"{100 * number:.0f}" for number in (found.value, found.low, found.high))
    assert f"{value} % ({low} to {high})" in " ".join(README.split()), (setting, arm)


def test_and_those_where_the_expert_comes_trained():
    runs = worlds.by_arm([each for each in results(PROJECT / "worlds.csv") if each["setting"] == "trained"])
    assert {len(runs[arm]) for arm in QUOTED[:2]} == {5}
    value = {arm: f"{100 * rate(worlds.counts(runs[arm])).value:.0f} %" for arm in QUOTED}
    sentence = README.partition("(five worlds): ")[2].partition(":")[0]
    apt, warm = (f"`--recipe {name}` {value[arm]}" for name, arm in (("apt", QUOTED[1]), ("warmup", "warmup")))
    assert sentence == f"the host's own {value['stock_full']}, {apt}, {warm}"


def test_the_readme_is_short():
    assert len(README.split()) <= 800
