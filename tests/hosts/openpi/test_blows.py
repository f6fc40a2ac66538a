"""openpi's runs, by both of its trainers, under every blow at every moment, see tests/hosts/blows.py.

On ordinary frames, augmented as the host augments them. Nothing is proven between the stages: in JAX that takes longer
than all the rest.
"""

from __future__ import annotations

import sys

import pytest

from tests.hosts import blows
from tests.hosts.blows import left_alone, test_a_run_struck_at_every_moment_ends_as_one_left_alone  # noqa: F401
from tests.hosts.openpi.test_round_trip import FAMILY, SCRIPTS, environment, pytestmark  # noqa: F401

TRAINERS = ("train.py", "train_pytorch.py")


@pytest.fixture(scope="module", params=TRAINERS)
def host(request, tmp_path_factory: pytest.TempPathFactory) -> blows.Host:
    root = tmp_path_factory.mktemp("openpi")
    command = [
        sys.executable, "-m", "apt_plugin", "run", SCRIPTS / request.param, f"tiny_{FAMILY}", "--recipe", "apt",
        "--apt.vlm", "frozen", "--apt.listen", "0", "--apt.prove", "false", "--apt.stage1.num-train-steps", "6",
        "--apt.stage2.num-train-steps", "6",
    ]  # fmt: skip
    env = environment(root, OMP_NUM_THREADS="1")
    return blows.Host(lambda run: [*command, f"--checkpoint-base-dir={run}"], ["--resume"], env, root)
