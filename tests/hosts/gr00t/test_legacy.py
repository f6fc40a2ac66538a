"""What commit c5d143f wrote (tests/legacy) loads, acts, resumes, proves and feeds a run from its cache."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

from pathlib import Path

import numpy as np
import pytest

from apt_plugin.cache_command import info
from apt_plugin.stages import read_record
from tests.hosts.gr00t import tiny
from tests.legacy import make_gr00t as legacy
from tests.legacy.archive import WROTE, apt_plugin, unpack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
RUNS = ["run/stage1", "run/stage2"]


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The unpacked archive, as working directory: the host looks for its VLM by it."""
    folder = unpack("gr00t", tmp_path_factory.mktemp(WROTE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def record_of(run: str, step: int = 2):
    return read_record(Path(run, f"checkpoint-{step}"))


@pytest.mark.parametrize("run", RUNS)
def test_it_acts_as_it_did(old, run):
    """By the host's own policy. It computes in bfloat16: another processor rounds differently."""
    folder = Path(run, "checkpoint-2")
    actions, expected = legacy.act(folder), np.load(folder / "expected.npy")
    np.testing.assert_allclose(actions, expected, atol=1e-4)
    assert (np.abs(expected[0] - expected[1]).max() == 0) == run.endswith("stage1")  # a prior hears no word


@pytest.mark.parametrize("run", RUNS)
def test_its_record_is_read(old, run):
    record = record_of(run)
    assert (record.stage, record.steps, len(record.curve.points("loss")[1])) == (int(run[-1]), 2, 2)
    assert record.vlm == record.vlm_start


@pytest.mark.parametrize("run", RUNS)
def test_its_contracts_hold(old, run, capsys):
    assert apt_plugin("prove", Path(run, "checkpoint-2")) == 0, capsys.readouterr().out[-3000:]


def test_it_resumes(old):
    before = record_of("run/stage2")
    done = tiny.finetune(old, old / "run", "--apt.stage", "2", "--resume-from-checkpoint")
    assert done.returncode == 0, done.stderr[-3000:]
    after = record_of("run/stage2", 4)
    losses = after.curve.points("loss")[1]
    assert after.steps == len(losses) == 4
    assert losses[:2].tolist() == before.curve.points("loss")[1].tolist()
    assert (after.vlm, after.stage1) == (before.vlm, before.stage1)


def test_stage_2_starts_from_its_stage_1(old):
    legacy.train("new", "--apt.stage", "2", "--base-model-path", "run/stage1/checkpoint-2")
    new, prior = record_of("new/stage2"), record_of("run/stage1")
    assert new.stage1["weights"] == prior.weights
    assert (new.vlm, new.layout) == (prior.vlm, prior.layout)


def test_its_cache_feeds_a_run(old):
    assert "entries" in info(Path("cache/stage1"))
    written = {path.name: path.stat().st_mtime_ns for path in Path("cache/stage1").iterdir()}
    legacy.train("new_cached", "--apt.stage", "1", *legacy.CACHED)
    assert {path.name: path.stat().st_mtime_ns for path in Path("cache/stage1").iterdir()} == written  # none made anew
    new, was = record_of("new_cached/stage1"), record_of("cached/stage1")
    assert (new.vlm, new.layout) == (was.vlm, was.layout)
