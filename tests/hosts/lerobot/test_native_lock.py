"""lerobot-train --policy.type=pi05_apt, without the launcher, trains beside no other run in its folder."""

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
