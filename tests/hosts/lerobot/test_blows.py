"""lerobot's run under every blow at every moment, see tests/hosts/blows.py. Half an hour, so only when it is named:

python -m pytest tests/hosts/lerobot/test_blows.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.hosts import blows
from tests.hosts.blows import left_alone, test_a_run_struck_at_every_moment_ends_as_one_left_alone  # noqa: F401
from tests.hosts.lerobot import datasets
from tests.hosts.lerobot.soak import HERE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(6000),
]


@pytest.fixture(scope="module")
def host(data: dict[str, Path], plain: dict[str, Path], tok: str) -> blows.Host:
    flags = datasets.flags(data["labelled"], tok, save_freq=2)
    command = [
        sys.executable, "-m", "apt_plugin", "run", "lerobot-train", "--policy.type=pi05",
        f"--policy.pretrained_path={plain['pi05']}", *flags, "--recipe", "apt", "--apt.vlm=frozen", "--apt.listen=0",
        "--apt.stage1.steps=4", "--apt.stage2.steps=4",
    ]  # fmt: skip
    environment = {**datasets.ENVIRONMENT, "PYTHONPATH": str(HERE)}
    return blows.Host(lambda run: [*command, f"--output_dir={run}"], ["--resume=true"], environment)
