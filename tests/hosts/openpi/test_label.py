"""`apt-plugin label` on a real openpi policy and data set: the copy is what the host's own loader reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openpi.models import tokenizer as _tokenizer
from openpi.training import config as _config

from apt_plugin import label_command
from apt_plugin.errors import AptError
from apt_plugin.listen import labels
from apt_plugin.listen.labels import Ask, Calibration
from tests.hosts.openpi import tiny
from tests.hosts.openpi.listened import TASKS, save_jax, train_config, write_data

QUIET = Ask(frames=2, draws=2, known=3, ask=3, sure=0.3, progress=False)


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def init(self: Any, max_len: int = 48) -> None:
        self._max_len, self._tokenizer = max_len, tiny.Pieces()

    monkeypatch.setattr(_tokenizer.PaligemmaTokenizer, "__init__", init)
    monkeypatch.setattr(_config, "_CONFIGS_DICT", dict(_config._CONFIGS_DICT))
    stock = train_config("pi05", tmp_path, write_data(tmp_path / "known"))
    save_jax(tmp_path / "policy", stock.model, stock, False)
    return tmp_path / "policy"


def asked(policy: Path, **more: str) -> labels.Labels:
    here = policy.parent
    sets = str(here / "known"), str(here / "bare")
    return label_command.run(str(policy), *sets, "openpi", QUIET, here / "out", config="listen_pi05", **more)


def test_the_hosts_loader_reads_the_labels_of_the_copy(policy: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """An untrained policy would be refused, so its calibration is given; everything else is real."""
    from lerobot.common.datasets.lerobot_dataset import LeRobotDataset

    bare = write_data(policy.parent / "bare", ("",), episodes=3)
    before = {path: path.read_bytes() for path in bare.rglob("*") if path.is_file()}
    monkeypatch.setattr(labels, "calibrate", lambda *a: Calibration(0.01, 3, 1.0, 0.3, 0.7, 0.5, 0.9, 1.0, 1.0, 0.5))
    made = asked(policy)
    assert set(made.likeliest) <= set(TASKS)
    out = policy.parent / "out/labelled"
    assert f"--data.repo-id={out}" in capsys.readouterr().out
    told = LeRobotDataset(str(out), root=out)
    heard = [told[episode * 8]["task"] for episode in range(3)]
    assert heard == [row["task"] for row in json.loads((policy.parent / "out/labels.json").read_text())["episodes"]]
    assert any(heard)
    assert before == {path: path.read_bytes() for path in bare.rglob("*") if path.is_file()}


def test_an_untrained_policy_and_lerobots_flags_are_refused(policy: Path) -> None:
    write_data(policy.parent / "bare", ("",), episodes=2)
    with pytest.raises(AptError, match="does not listen well enough to label"):
        asked(policy)
    with pytest.raises(AptError, match="give openpi a data set by its folder's full path"):
        asked(policy, root="somewhere")
    assert not (policy.parent / "out").exists()
