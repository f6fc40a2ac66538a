"""`apt-plugin label` on real lerobot policies and data sets, and the host's own edit of what it wrote."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from apt_plugin import label_command
from apt_plugin.errors import AptError
from apt_plugin.listen import labels
from apt_plugin.listen.labels import Ask, Calibration
from tests.hosts.lerobot import datasets

QUIET = Ask(frames=2, draws=2, known=3, ask=3, sure=0.5, progress=False)


def sets(data: dict[str, Path], tmp_path: Path) -> tuple[str, str]:
    """The labelled set, and a copy of one that was recorded without any annotation."""
    return str(data["labelled"]), str(shutil.copytree(data["bare"], tmp_path / "bare"))


def test_the_hosts_own_edit_takes_the_labels(
    likelihood: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained policy would be refused, so its calibration is given; everything else is real."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.scripts import lerobot_edit_dataset

    known = Calibration(0.01, 3, 1.0, 0.3, 0.7, 0.5, 0.9, 1.0, 1.0, 0.5)
    monkeypatch.setattr(labels, "calibrate", lambda *a: known)
    labelled, bare = sets(data, tmp_path)
    made = label_command.run(str(likelihood), labelled, bare, "", QUIET, tmp_path / "out")
    texts = {"pick up the red cup", "push the blue block", "place green"}
    assert set(made.likeliest) <= texts
    told = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [row["task"] for row in told["episodes"]] == made.task
    edit = yaml.safe_load((tmp_path / "out" / "edit.yaml").read_text())
    assert edit["operation"]["episode_tasks"] == {str(e): text for e, text in enumerate(made.task)}

    edit["operation"]["episode_tasks"]["0"] = ""  # an episode about which the policy was not sure
    (tmp_path / "out" / "edit.yaml").write_text(yaml.safe_dump(edit))
    monkeypatch.setattr(sys, "argv", ["lerobot-edit-dataset", f"--config_path={tmp_path / 'out' / 'edit.yaml'}"])
    lerobot_edit_dataset.main()
    now = LeRobotDataset("local/bare", root=bare)
    first = [now[int(row["dataset_from_index"])]["task"] for row in now.meta.episodes]
    assert first == ["", *made.task[1:]]


def test_an_untrained_policy_does_not_label(likelihood: Path, data: dict[str, Path], tmp_path: Path) -> None:
    labelled, bare = sets(data, tmp_path)
    with pytest.raises(AptError, match="does not listen well enough to label"):
        label_command.run(str(likelihood), labelled, bare, "", QUIET, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_frames_are_spread_over_an_episode(likelihood: Path, data: dict[str, Path]) -> None:
    """The first frame alone says where the arm starts, seldom where it goes."""
    from apt_plugin.hosts.lerobot.label import open_sets

    known, unknown = open_sets(str(likelihood), str(data["labelled"]), str(data["unlabelled"]))
    assert list(known.task)[:3] == ["pick up the red cup", "push the blue block", "place green"]
    assert set(unknown.task) == {""}
    frames = unknown.listener([4, 1], 3).frames
    assert frames.episode.tolist() == [4, 4, 4, 1, 1, 1]
    np.testing.assert_allclose(frames.position, [0, 4 / 7, 1] * 2)  # of eight steps


def test_a_host_that_is_not_here_is_named(tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    with pytest.raises(AptError, match="openpi"):
        label_command.run(str(tmp_path), "a", "b", "", QUIET, tmp_path / "out")


def test_the_command_is_there() -> None:
    done = datasets.call("apt-plugin", "label", "--help")
    for flag in ("--policy", "--labelled", "--unlabelled", "--sure"):
        assert flag in done.stdout, flag
