"""What a command of openpi asks for, read by its own parser: steps, schedule, and what of the VLM trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import openpi
import pytest
from openpi.shared import nnx_utils

from apt_plugin.hosts.openpi.adapter import OpenpiAdapter
from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.derive import as_host, freeze_filter
from apt_plugin.launch import split
from apt_plugin.recipe import from_flat
from apt_plugin.run.flags import Flags
from tests.hosts.openpi.test_round_trip import environment
from tests.hosts.openpi.test_traps import libero

TRAIN = Path(openpi.__file__).parents[2] / "scripts" / "train.py"


@pytest.mark.skipif(not TRAIN.is_file(), reason="openpi is no checkout here: no scripts/train.py")
def test_the_configs_steps_are_the_total_of_both_stages(tmp_path, monkeypatch):
    """pi05_libero is 30000 steps with 10000 of warm-up: both stages had all of either."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    line = [str(TRAIN), "tiny_pi05", "--exp-name=e", "--num-train-steps=30000", "--recipe", "apt"]
    line += ["--lr-schedule.warmup-steps=10000", "--lr-schedule.decay-steps=1000000"]
    run = OpenpiAdapter().stages(split([*line, "--apt.stage2.lr-schedule.warmup_steps=7"]))
    assert run.budget.steps == {"1": 1, "2": 29999}
    given = [Flags.read(run.flags(stage), switches=True) for stage in ("1", "2")]
    names = ("num-train-steps", "lr-schedule.warmup-steps", "lr-schedule.decay-steps")
    told = [[flags.get(name) for name in names] for flags in given]
    assert told == [["1", "1", "33"], ["29999", "7", "999967"]]
    assert run.plan["stages"]["2"]["steps"] == 29999
    assert run.recipe.vlm == "full"


def config(variant="", frozen=None):
    stock = libero()
    model = dataclasses.replace(stock.model, paligemma_variant=stock.model.paligemma_variant + variant)
    return dataclasses.replace(stock, model=model, **({"freeze_filter": frozen} if frozen is not None else {}))


def test_a_config_that_freezes_nothing_and_the_pytorch_trainer_train_the_vlm():
    assert as_host(config(), from_flat({})).vlm == "full"
    assert as_host(config(frozen=nnx_utils.PathRegex(".*")), from_flat({}), torch=True).vlm == "full"


def test_a_freeze_filter_over_the_vlm_keeps_it_frozen():
    assert as_host(config(frozen=nnx_utils.PathRegex(".*PaliGemma.*")), from_flat({})).vlm == "frozen"


def test_a_freeze_filter_over_a_part_of_the_vlm_freezes_that_part():
    stock = config(frozen=nnx_utils.PathRegex(".*img.*"))
    recipe = as_host(stock, from_flat({}))
    assert recipe.vlm == "full"
    assert recipe.freeze
    assert all("img" in pattern for pattern in recipe.freeze)
    model = apt_config(stock.model, 2, recipe)
    stays = freeze_filter(model, stock.freeze_filter)
    assert stays(("PaliGemma", "img", *recipe.freeze[0].strip("^$").replace("\\", "").split("/")[2:]), None)
    assert not stays(("PaliGemma", "llm", "embedder", "input_embedding"), None)


def test_a_lora_variant_trains_its_factors():
    held = config("_lora").model.get_freeze_filter()
    assert as_host(config("_lora", held), from_flat({})).vlm == "lora"
    assert as_host(config("_lora", held), from_flat({"vlm": "frozen"})).vlm == "frozen"
