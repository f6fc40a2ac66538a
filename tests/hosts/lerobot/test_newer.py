"""What lerobot's git main does and 0.6.1 does not: an average of weights, autocast as a flag. 0.6.1 collects none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets
from tests.hosts.lerobot.datasets import stage1, stage2

MODEL, AVERAGE = "checkpoints/last/pretrained_model", "checkpoints/last/pretrained_model_ema"
EMA = ("--ema.enable=true", "--ema.decay=0.5")


@pytest.fixture(scope="module")
def averaged(data, plain, tok: str, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("averaged") / "s1"
    datasets.lerobot_train(*stage1(data["bare"], plain["pi05"], tok, out, steps=4, save_freq=2), *EMA)
    return out


def test_an_average_leaves_frozen_weights_alone(averaged: Path, plain) -> None:
    """openpi's average damages them in bfloat16; lerobot's copies what has no gradient."""
    live, mean, base = (load_file(path / "model.safetensors") for path in
                        (averaged / MODEL, averaged / AVERAGE, plain["pi05"]))  # fmt: skip
    frozen = [name for name in live if ".paligemma." in name]
    assert frozen
    assert not [n for n in frozen if not torch.equal(mean[n], base[n]) or not torch.equal(live[n], base[n])]
    assert [n for n in mean if n not in frozen and not torch.equal(mean[n], live[n])]
    record, own = read_record(averaged / MODEL), read_record(averaged / AVERAGE)
    assert own.vlm == record.vlm == record.vlm_start
    assert own.weights != record.weights


def test_an_average_is_a_prior_and_is_resumed(averaged: Path, data, tok: str, tmp_path: Path) -> None:
    datasets.lerobot_train(*stage2(data["labelled"], averaged / AVERAGE, tok, tmp_path / "s2", steps=1))
    record = read_record(tmp_path / "s2" / MODEL)
    assert record.stage1 is not None
    assert record.stage1["weights"] == read_record(averaged / AVERAGE).weights
    config = averaged / MODEL / "train_config.json"
    datasets.lerobot_train(f"--config_path={config}", "--resume=true", "--steps=6")
    assert read_record(averaged / AVERAGE).steps == read_record(averaged / MODEL).steps == 6


def test_two_processes_save_one_whole_checkpoint_with_its_average(data, plain, tok: str, tmp_path: Path) -> None:
    """Saving is called on every rank there: two ranks that each write, rename and record would race for one folder."""
    from apt_plugin.hosts.lerobot.checkpoints import last_whole
    from tests import ranks

    flags = stage1(data["labelled"], plain["pi05"], tok, tmp_path / "run", steps=4, save_freq=1)
    ranks.run(2, tmp_path / "logs", datasets.lerobot_train, *flags, "--batch_size=4", *EMA)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["000001", "000002", "000003", "000004", "last"]
    assert last_whole(tmp_path / "run") == folder / "000004"
    for step in range(1, 5):
        record = read_record(folder / f"{step:06d}" / "pretrained_model")
        assert (record.steps, record.vlm) == (step, record.vlm_start)
    assert not list(folder.rglob("*.tmp"))


def test_bfloat16_gets_its_autocast_flag(data, plain, tok: str, tmp_path: Path) -> None:
    """Without it main computes in bfloat16 weights alone: 4e-3 away in three steps, and no test failed."""
    from apt_plugin.hosts.lerobot.flags import autocast_flags
    from apt_plugin.run.flags import Flags

    flags = Flags.read([*stage1(data["bare"], plain["pi05"], tok, tmp_path / "s1", steps=1), "--policy.dtype=bfloat16"])
    datasets.lerobot_train(*flags.with_(autocast_flags(flags, None)).tokens())
    told = json.loads((tmp_path / "s1" / MODEL / "train_config.json").read_text())
    assert told["accelerator"]["mixed_precision"] == "bf16"
