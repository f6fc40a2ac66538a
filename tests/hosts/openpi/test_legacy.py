"""What commit c5d143f wrote (tests/legacy) loads, acts, resumes, proves and feeds a run from its cache."""

from __future__ import annotations

import json
import sys

import pytest

from tests import processes
from tests.hosts.openpi.test_round_trip import (
    environment,
    pytestmark,  # noqa: F401
)
from tests.legacy.archive import WROTE, unpack

KINDS = ["jax1", "jax2", "cached1", "torch1", "torch2"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One process for all of it: importing openpi takes longer than these runs."""
    root = unpack("openpi", tmp_path_factory.mktemp(WROTE))
    more = {"HF_LEROBOT_HOME": "data", "APT_TEST_FRAMES": "1", "APT_TEST_FIXED": "1", "HF_HUB_OFFLINE": "1"}
    more |= {"APT_TEST_ROOT": ".", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.hosts.openpi.legacy_runs"]
    done = processes.run(command, cwd=root, env=environment(root, **more))
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])


@pytest.mark.parametrize("kind", KINDS)
def test_it_acts_as_it_did(found, kind):
    """By the host's own Policy. It computes in bfloat16 where it can: another processor rounds differently."""
    apart, heard = found["actions"][kind]
    assert apart <= 1e-4
    assert (heard == 0) == kind.endswith("1")  # two instructions: a prior hears none of them


@pytest.mark.parametrize("kind", KINDS)
def test_its_record_is_read(found, kind):
    record = found["records"][kind]
    assert (record["stage"], len(record["losses"])) == (int(kind[-1]), 2)
    assert record["vlm"] == record["vlm_start"]


@pytest.mark.parametrize("kind", ["jax1", "jax2", "torch1"])
def test_its_contracts_hold(found, kind):
    assert found["proved"][kind] == 0


@pytest.mark.parametrize("trainer", ["jax", "torch"])
def test_stage_2_starts_from_its_stage_1(found, trainer):
    new, prior = found[f"new_{trainer}2"], found["records"][f"{trainer}1"]
    assert (new["vlm"], new["layout"]) == (prior["vlm"], prior["layout"])
    assert new["stage1"]["steps"] == prior["steps"]


def test_it_resumes(found):
    before, after = found["records"]["jax2"], found["resumed"]
    assert after["steps"] == len(after["losses"]) == 4
    assert after["losses"][:2] == before["losses"]
    assert after["vlm"] == before["vlm"]
    assert after["stage1"] == before["stage1"]


def test_its_cache_feeds_a_run(found):
    assert not found["verified"].startswith("refused")
    new, was = found["new_cached1"], found["records"]["cached1"]
    assert (new["vlm"], new["layout"]) == (was["vlm"], was["layout"])
