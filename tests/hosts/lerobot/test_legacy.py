"""What commit c5d143f wrote (tests/legacy) loads, acts, resumes, proves and feeds a run from its cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from apt_plugin.cache_command import info
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS
from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets
from tests.legacy import make_lerobot as legacy
from tests.legacy.archive import WROTE, apt_plugin, unpack

STEP = "checkpoints/000002"
RUNS = ["pi05/stage1", "pi05/stage2", "pi05_host/stage2", "pi05_lora/stage2", "pi05_cached/stage1", "pi0/stage1",
        "pi0/stage2", "groot/stage1", "groot/stage2"]  # fmt: skip


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory):
    """The unpacked archive, as working directory."""
    folder = unpack("lerobot", tmp_path_factory.mktemp(WROTE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def model(run: str) -> Path:
    return Path(run, STEP, "pretrained_model")


@pytest.mark.parametrize("run", RUNS)
def test_it_acts_as_it_did(old: Path, run: str) -> None:
    """Through the host's own loading. Another processor rounds differently: 1e-5 of actions of order 1."""
    actions, expected = legacy.act(model(run)), np.load(Path(run, STEP, "expected.npy"))
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    apart = np.abs(expected[0] - expected[1]).max()
    assert (apart == 0) == run.endswith("stage1")  # two instructions: a prior hears none of them


@pytest.mark.parametrize("run", RUNS)
def test_its_record_is_read(old: Path, run: str) -> None:
    record = read_record(model(run))
    assert (record.stage, record.steps) == (int(run[-1]), 2)
    assert len(record.curve.points("loss")[1]) == 2
    assert record.vlm == record.vlm_start


@pytest.mark.parametrize("run", ["pi05/stage1", "pi05/stage2", "pi0/stage1", "groot/stage1"])
def test_its_contracts_hold(old: Path, run: str, capsys: pytest.CaptureFixture) -> None:
    assert apt_plugin("prove", model(run)) == 0, capsys.readouterr().out[-3000:]


def test_it_resumes(old: Path) -> None:
    """Two steps more, on the same curve and the same VLM; the noise of a step may be drawn otherwise by now."""
    before = read_record(model("pi05/stage2"))
    config = model("pi05/stage2") / "train_config.json"
    datasets.lerobot_train(f"--config_path={config}", "--resume=true", "--output_dir=resumed", "--steps=4")
    record = read_record(Path("resumed/checkpoints/000004/pretrained_model"))
    losses = record.curve.points("loss")[1]
    assert record.steps == len(losses) == 4
    assert losses[:2].tolist() == before.curve.points("loss")[1].tolist()
    assert np.isfinite(losses).all()
    assert record.vlm == record.vlm_start == before.vlm_start
    assert record.stage1 == before.stage1


@pytest.mark.parametrize("family", ["pi05", "groot"])
def test_stage_2_starts_from_its_stage_1(old: Path, family: str) -> None:
    legacy.train(f"new_{family}", 2, family=family, prior=family)
    record, prior = (read_record(model(run)) for run in (f"new_{family}/stage2", f"{family}/stage1"))
    assert record.stage1 is not None
    assert record.stage1["weights"] == prior.weights
    assert (record.vlm, record.layout) == (prior.vlm, prior.layout)


def test_its_cache_feeds_a_run(old: Path) -> None:
    """The same losses as when it was written would need the same noise; the same VLM and layout are asked for."""
    assert "16 of 16 entries" in info(Path("cache/stage1"))
    cached = ("--policy.recipe.cache=cache", "--policy.recipe.cache_kind=kv")
    base = f"--policy.pretrained_path={old / 'plain/pi05'}"
    verify = ("verify", "--policy.type=pi05_apt", "--policy.stage=1", base, *legacy.flags("never", 1, *cached))
    if HOSTS["lerobot"].version() != "0.6.1":  # another host's VLM may compute other features
        with pytest.raises(
            AptError, match=r"host is 'lerobot 0\.6\.1' in the cache and 'lerobot .*' here. Name another"
        ):
            datasets.cache_program(*verify)
        return
    datasets.cache_program(*verify)
    legacy.train("new_cached", 1, *cached)
    new, was = (read_record(model(f"{run}/stage1")) for run in ("new_cached", "pi05_cached"))
    assert (new.vlm, new.layout) == (was.vlm, was.layout)


def test_its_stage_2_is_not_its_stage_1(old: Path) -> None:
    """These files are no copies of each other: two steps moved the expert, the VLM stayed."""
    one, two = (load_file(model(f"pi05/{stage}") / "model.safetensors") for stage in ("stage1", "stage2"))
    moved = {name for name in one if not torch.equal(one[name], two[name])}
    assert moved
    assert not [name for name in moved if ".paligemma." in name]
    assert [name for name in two if "apt_" in name]
