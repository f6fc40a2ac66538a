"""Isaac GR00T's run under every blow at every moment, see tests/hosts/blows.py."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import sys
from pathlib import Path

import pytest

from tests.hosts import blows
from tests.hosts.gr00t import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6000)]


@pytest.fixture(scope="module")
def host(where: Path) -> blows.Host:
    command = [
        sys.executable, "-m", "apt_plugin", "run", "gr00t/experiment/launch_finetune.py", "--base-model-path", "base2",
        "--dataset-path", "data", "--embodiment-tag", tiny.TAG, "--save-steps", "2", "--global-batch-size", "4",
        "--dataloader-num-workers", "0", "--num-shards-per-epoch", "10", "--episode-sampling-rate", "1.0",
        "--recipe", "apt", "--apt.listen", "0", "--apt.stage1.max-steps", "4", "--apt.stage2.max-steps", "4",
    ]  # fmt: skip
    more = ["--resume-from-checkpoint"]
    return blows.Host(lambda run: [*command, "--output-dir", run], more, tiny.environment(), where)


@pytest.fixture(scope="module")
def left_alone(host: blows.Host, tmp_path_factory: pytest.TempPathFactory):
    return blows.alone(host, tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.parametrize("blow", blows.BLOWS)
def test_a_run_struck_at_every_moment_ends_as_one_left_alone(host, left_alone, tmp_path: Path, blow: str) -> None:
    print(blows.check(host, tmp_path, blow, left_alone))
