"""The stage lengths of our lerobot recipes against the warm-up and decay of the host's own schedule."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("lerobot")
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import factory  # noqa: F401  # registers the policy types

from apt_plugin.hosts.lerobot.families import POLICIES
from apt_plugin.launch import split
from apt_plugin.recipes import shipped
from tests.schedules import check

STEPS = 100_000  # lerobot-train's own default


@pytest.mark.parametrize("stage", ["1", "2"])
@pytest.mark.parametrize("name", sorted(shipped()["lerobot"]))
def test_every_stage_reaches_its_rate_and_leaves_it_in_time(name: str, stage: str) -> None:
    request = split(["lerobot-train", "--recipe", "apt", "--apt.config", name], "lerobot")
    policy: Any = PreTrainedConfig.get_choice_class(next(kind for kind in POLICIES if name.split("_")[0] == kind))()
    assert not [flag for flag in request.stage_flags[stage] if "scheduler" in flag]  # else it belongs below
    steps = int(request.stage_flags[stage].get("steps", STEPS))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = policy.get_scheduler_preset().build(optimizer, steps)
    rates = [schedule.lr_lambdas[0](step) for step in range(0, steps, 10)]
    if "steps" in request.stage_flags[stage]:  # a length that the recipe chose
        check(rates, 1.0)
    else:
        assert max(rates) == pytest.approx(1.0, abs=0.01)
