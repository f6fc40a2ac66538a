"""`--rename_map`: lerobot applies it only where a policy keeps its `pretrained_path`, which the recipe resets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.opening import open_policy
from tests.hosts.lerobot import datasets
from tests.hosts.lerobot.tiny import CAMERAS, STATE

TOP, WRIST = CAMERAS
BASE = ("observation.images.base_0_rgb", "observation.images.left_wrist_0_rgb")
MAP = "--rename_map=" + json.dumps(dict(zip(CAMERAS, BASE, strict=True)))
ONE = "--rename_map=" + json.dumps({TOP: BASE[0]})


def cameras(names: tuple[str, ...]) -> str:
    features: dict[str, Any] = {name: {"type": "VISUAL", "shape": [3, 28, 28]} for name in names}
    return "--policy.input_features=" + json.dumps(
        features | {"observation.state": {"type": "STATE", "shape": [STATE]}}
    )


def opened(run: Path) -> Any:
    return open_policy(run / "checkpoints/last/pretrained_model")


def test_a_rename_map_reaches_the_policy_of_both_stages(data, plain, tok: str, tmp_path: Path) -> None:
    """The user's names for the cameras are in the config, and the data's are turned into them."""
    first = datasets.stage1(data["labelled"], plain["pi05"], tok, tmp_path / "a", steps=1)
    datasets.lerobot_train(*first, MAP)
    prior = tmp_path / "a/checkpoints/last/pretrained_model"
    datasets.lerobot_train(*datasets.stage2(data["labelled"], prior, tok, tmp_path / "b", steps=1), MAP)
    for run in ("a", "b"):
        policy = opened(tmp_path / run)
        assert tuple(policy.policy.config.image_features) == BASE
        frame = {name: torch.rand(1, 3, 28, 28) for name in CAMERAS}
        batch = policy.preprocessor(frame | {"observation.state": torch.zeros(1, STATE), "task": ["push"]})
        assert set(BASE) <= batch.keys()
        assert not set(CAMERAS) & batch.keys()


def test_a_camera_named_by_a_rename_map_alone_is_not_black(data, plain, tok: str, tmp_path: Path) -> None:
    """The host fills a camera that it does not find with black and goes on: half of the policy's sight was gone."""
    names = (BASE[0], WRIST)
    flags = datasets.stage1(data["labelled"], plain["pi05"], tok, tmp_path / "a", steps=1)
    datasets.lerobot_train(*flags, cameras(names), ONE)
    policy = opened(tmp_path / "a")
    frame = {name: torch.rand(1, 3, 28, 28) for name in CAMERAS}
    batch = policy.preprocessor(frame | {"observation.state": torch.zeros(1, STATE), "task": ["push"]})
    assert all(bool(mask.all()) for mask in policy.policy._preprocess_images(batch)[1])


@pytest.mark.parametrize("native", [True, False], ids=["native", "launcher"])
def test_cameras_that_nothing_renames_are_refused(native: bool, data, plain, tok: str, tmp_path: Path) -> None:
    """Without the launcher nobody tells the policy of the map; with it, a map may name no camera of the policy."""
    flags = datasets.stage1(data["labelled"], plain["pi05"], tok, tmp_path / "a", steps=1)
    rename = ONE if native else "--rename_map=" + json.dumps({TOP: "observation.images.elsewhere"})
    with pytest.raises(AptError, match=r"reads observation.images.base_0_rgb, which the data lack.*--rename_map"):
        datasets.lerobot_train(*flags, cameras((BASE[0], WRIST)), rename, native=native)
