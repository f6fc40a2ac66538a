"""A checkpoint whose processor names `subprocess.Popen`: the host calls it, with the arguments in the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.label import open_sets
from apt_plugin.hosts.lerobot.listen import open_listener
from apt_plugin.hosts.lerobot.prove import open_subject
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from tests.hosts.lerobot import datasets
from tests.hosts.lerobot.test_listen import stock_folder

Doors = dict[str, Callable[[Path], Any]]


def poison(folder: Path, file: str, marker: Path) -> Path:
    path = folder / file
    value = json.loads(path.read_text())
    value["steps"].insert(0, {"class": "subprocess.Popen", "config": {"args": ["touch", str(marker)]}})
    path.write_text(json.dumps(value))
    return folder


@pytest.fixture
def doors(data: dict[str, Path], tok: str, tmp_path: Path) -> Doors:
    def train(folder: Path) -> None:
        datasets.lerobot_train(*datasets.stage2(data["labelled"], folder, tok, tmp_path / "out", steps=1))

    def evaluate(folder: Path) -> None:
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors

        config: Any = PreTrainedConfig.from_pretrained(folder)
        get_policy_class(config.type).from_pretrained(folder, config=config)
        make_pre_post_processors(config, pretrained_path=str(folder))

    return {
        "listen": lambda folder: open_listener(str(folder), str(data["labelled"]), frames=2),
        "label": lambda folder: open_sets(str(folder), str(data["labelled"]), str(data["unlabelled"])),
        "prove": lambda folder: open_subject(str(folder)),
        "train": train,
        "evaluate": evaluate,
    }


@pytest.mark.parametrize("file", ["policy_preprocessor.json", "policy_postprocessor.json"])
@pytest.mark.parametrize("door", ["listen", "label", "prove", "train", "evaluate"])
def test_a_step_that_nobody_registered_never_runs(
    door: str, file: str, doors: Doors, priors: dict[str, Path], tmp_path: Path
) -> None:
    folder = poison(Path(shutil.copytree(priors["pi05"], tmp_path / "prior")), file, tmp_path / "ran")
    with pytest.raises(
        AptError, match=rf"{file} holds the step 'subprocess.Popen', which is not in lerobot's registry"
    ):
        doors[door](folder)
    assert not (tmp_path / "ran").exists()


def test_a_stock_checkpoint_with_such_a_step_is_not_listened_to(doors: Doors, tok: str, tmp_path: Path) -> None:
    with sized(TINY):
        folder = stock_folder(tmp_path / "pi05", "pi05", tok)
        doors["listen"](folder)
        with pytest.raises(AptError, match=r"holds the step 'subprocess.Popen'"):
            doors["listen"](poison(folder, "policy_preprocessor.json", tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("steps", [[{"registry_name": "no_such_step"}], [{}], "none", [3]])
def test_what_is_no_list_of_known_steps_is_refused(
    steps: Any, doors: Doors, priors: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(priors["pi05"], tmp_path / "prior"))
    path = folder / "policy_preprocessor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": steps}))
    with pytest.raises(AptError, match=r"not in lerobot's registry|is no saved processor"):
        doors["listen"](folder)
