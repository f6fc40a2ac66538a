"""lerobot-train --policy.type=pi05_apt, without the launcher: beside no other run in its folder, looked at first."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from apt_plugin.errors import AptError
from tests import processes
from tests.core.test_lock import HOLDING
from tests.core.test_processes import written
from tests.hosts.lerobot import datasets
from tests.hosts.lerobot.datasets import stage1


def test_the_hosts_own_command_is_refused_beside_another_run(plain, data, tok: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = stage1(data["labelled"], plain["pi05"], tok, run / "stage1", steps=1)
    with processes.running([sys.executable, "-c", HOLDING, run, tmp_path / "at", "600"]) as owner:
        written(tmp_path / "at")
        with pytest.raises(AptError, match=f"belongs to a run that is not over: process {owner.pid}"):
            datasets.lerobot_train(*flags, native=True)
    datasets.lerobot_train(*flags, native=True)


def test_the_hosts_own_command_is_looked_at_before_its_first_step(plain, data, tok: str, tmp_path: Path) -> None:
    """What needs no second process; a prompt beyond the limit ended the run at its first long instruction."""
    flags = stage1(data["labelled"], plain["pi05"], tok, tmp_path / "run", steps=1)
    with pytest.raises(AptError, match=r"has \d+ tokens and --policy.tokenizer_max_length is 4.*\nNothing was trained"):
        datasets.lerobot_train(*flags, "--policy.tokenizer_max_length=4", native=True)
    assert not (tmp_path / "run").exists()
