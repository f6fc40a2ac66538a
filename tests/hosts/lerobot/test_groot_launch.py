"""`--recipe apt` on lerobot's own `groot` policy, from raw weights: both stages by one command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("lerobot", reason="lerobot is not installed: its policies cannot run")

from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets
from tests.hosts.lerobot import tiny_groot as tiny
from tests.hosts.lerobot.test_groot_training import flags, last


@pytest.mark.slow
def test_the_launcher_turns_groot_into_groot_apt(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.base(tmp_path / "base", tiny.vlm_folder(tmp_path), 2)
    datasets.write(tmp_path / "labelled", ["pick up the red cup", "push the blue block"], episodes=4)
    datasets.call(
        "apt-plugin", "run", "lerobot-train", "--policy.type=groot", *flags(tmp_path, tmp_path / "run"), "--recipe",
        "apt", "--apt.fusion.kind", "host", "--apt.listen", "0", PWD=os.getcwd(),
    )  # fmt: skip
    assert json.loads((tmp_path / "run" / "proofs.json").read_text())["holds"]
    first, second = (read_record(last(tmp_path / "run" / stage)) for stage in ("stage1", "stage2"))
    assert (first.stage, first.steps, second.stage, second.steps) == (1, 1, 2, 2)  # of three steps
    assert second.stage1 is not None
    assert second.stage1["weights"] == first.weights
    assert first.vlm == second.vlm
    config = json.loads((last(tmp_path / "run" / "stage2") / "config.json").read_text())
    assert config["type"] == "groot_apt"
