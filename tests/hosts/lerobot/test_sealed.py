"""A lerobot checkpoint is its weights, config, processors and record together, by whatever door it is opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import loading
from apt_plugin.hosts.lerobot.opening import open_policy
from apt_plugin.hosts.lerobot.prove import open_subject
from apt_plugin.stages import read_record


def edit(path: Path, change: Callable[[dict], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def as_prior(folder: Path) -> None:
    """As Stage 2 takes it up."""
    config = loading.config_of(folder)
    config.stage = 2
    config.recipe = read_record(folder).recipe
    loading.inspect(folder, config)


DOORS = {"open": open_policy, "prove": open_subject, "stage 2": as_prior}


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """Written by the host's script as the launcher's child runs it."""
    return Path(shutil.copytree(trained / "last/pretrained_model", tmp_path / "checkpoint"))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("config.json", lambda value: value["recipe"].update(prefix="native"), r"recipe\.prefix is now \"native\""),
        ("config.json", lambda value: value.update(tokenizer_max_length=99), r"tokenizer_max_length is now 99"),
        (
            "policy_preprocessor.json",
            lambda value: value["steps"].reverse(),
            r"policy_preprocessor\.json .*steps is now",
        ),
    ],
    ids=["recipe", "config", "processor"],
)
def test_what_was_edited_is_refused_at_every_door(
    checkpoint: Path, door: str, name: str, change: Callable, words: str
) -> None:
    """It loaded, and `prove` printed rows of NO above "All contracts hold"."""
    DOORS[door](checkpoint)
    edit(checkpoint / name, change)
    with pytest.raises(AptError, match=words):
        DOORS[door](checkpoint)


def test_where_it_runs_may_be_edited(checkpoint: Path) -> None:
    edit(checkpoint / "config.json", lambda value: value.update(device="cpu", push_to_hub=True, repo_id="me/mine"))
    open_policy(checkpoint)


def test_a_record_without_a_seal_still_holds_the_recipe(checkpoint: Path) -> None:
    """Checkpoints of older plugins."""
    edit(checkpoint / "apt.json", lambda value: value.update(sealed=None))
    open_policy(checkpoint)
    edit(checkpoint / "config.json", lambda value: value["recipe"].update(noise_draws=7))
    with pytest.raises(AptError, match=r"holds another recipe than the apt\.json"):
        open_policy(checkpoint)
