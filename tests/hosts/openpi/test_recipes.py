"""The stage lengths of our openpi recipes against the warm-up and decay of the configs that they are for."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("openpi", reason="openpi is not installed here")
from openpi.training import config as _config

from apt_plugin.launch import split
from apt_plugin.recipes import shipped
from tests.schedules import check


@pytest.mark.parametrize("stage", ["1", "2"])
@pytest.mark.parametrize("name", sorted(shipped()["openpi"]))
def test_every_stage_reaches_its_rate_and_leaves_it_in_time(name: str, stage: str, monkeypatch) -> None:
    """pi05_libero once had 3000 steps of Stage 1 inside a warm-up of 10000: its rate ended at 30 % of the peak."""
    request = split(["scripts/train.py", name, "--exp-name=e", "--recipe", "apt", "--apt.config", name], "openpi")
    flags = [f"--{flag}={value}" for flag, value in request.stage_flags[stage].items()]
    monkeypatch.setattr(sys, "argv", [*request.command, *flags])
    config = _config.cli()
    rates = config.lr_schedule.create()(np.arange(0, config.num_train_steps, 10))
    check(np.asarray(rates).tolist(), config.lr_schedule.peak_lr)
