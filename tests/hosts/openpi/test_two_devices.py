"""Several devices give the single-device loss and gradient: FSDP on forced host devices, DDP on two gloo processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests import processes

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[3]
MODULE = "tests.hosts.openpi.two_devices"


def result(command: list[str], **more: str) -> dict:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_ENABLE_COMPILATION_CACHE": "false"} | more
    done = processes.run(command, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT "))


@pytest.mark.parametrize("devices", [2, 4])
def test_fsdp_over_forced_devices(devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    found = result([sys.executable, "-m", MODULE, "jax"], XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert found["devices"] == devices
    assert found["sharded"] > 20  # really split, the host's 4 MiB threshold notwithstanding
    assert found["loss"] < 1e-5
    assert found["grads"] < 1e-4  # sums over the batch in another order


def test_two_gloo_processes():
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    found = result([*launcher, "-m", MODULE, "torch"])
    assert found["devices"] == 2
    assert found["loss"] < 1e-5
    assert found["grads"] < 1e-4
