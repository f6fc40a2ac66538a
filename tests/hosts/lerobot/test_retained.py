"""Whether a VLM that trains still tells instructions apart as it did, in the host's tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from apt_plugin.backends.torch_retained import by_rows
from apt_plugin.hosts.lerobot.groups import in_vlm
from tests.hosts.lerobot import tiny

TASKS = ["push the block", "pick up the red cup", "push the block"]


def logged(policy: Any, batch: dict[str, Any], step: int = 0) -> float | None:
    policy.train()
    policy.apt_run.step = step
    return policy.forward(dict(batch))[1].get("apt/retention")


def torn(policy: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if in_vlm(name) and parameter.dim() == 2:
            parameter.data = torch.randn(parameter.shape, generator=generator) * parameter.std()


@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_retention_is_one_until_the_vlm_moves(priors: dict[str, Path], tok: str, family: str) -> None:
    policy = tiny.stage2(family, priors[family], tok, {"vlm": "full", "gap_every": 50})
    batch = tiny.batch(policy, TASKS)
    assert logged(policy, batch) == pytest.approx(1.0, abs=1e-6)
    assert policy.training
    assert logged(policy, batch, 1) is None  # at the interval of the blank gap
    torn(policy)
    value = logged(policy, tiny.batch(policy, TASKS, seed=1), 50)  # of the first batch, whatever is trained on now
    assert value is not None
    assert value < 0.6
    assert policy.apt_run.curve.points("retention")[1].tolist() == pytest.approx([1.0, value])


def test_looking_draws_no_random_number(priors: dict[str, Path], tok: str) -> None:
    """Else every step behind it would be another one."""
    found = []
    for every in (1, 0):
        policy = tiny.stage2("pi05", priors["pi05"], tok, {"vlm": "full", "gap_every": every})
        torch.manual_seed(0)
        logged(policy, tiny.batch(policy, TASKS))
        found.append(torch.rand(3).tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("vlm", "tasks", "step"), [("frozen", TASKS, 0), ("full", TASKS[:1] * 3, 0), ("full", TASKS, 7)]
)
def test_what_is_not_known_is_not_logged(
    priors: dict[str, Path], tok: str, vlm: str, tasks: list[str], step: int
) -> None:
    """A frozen VLM keeps everything; one instruction has no other; behind a resume nobody knows how it began."""
    policy = tiny.stage2("pi05", priors["pi05"], tok, {"vlm": vlm, "gap_every": 1})
    assert logged(policy, tiny.batch(policy, list(tasks)), step) is None


def test_a_prompt_that_holds_no_state_is_swapped_as_a_whole() -> None:
    batch = {"input_ids": torch.tensor([[1, 2], [3, 4], [5, 6]]), "state": torch.zeros(3, 2)}
    found = by_rows("input_ids", "mm_token_type_ids")(batch, [1, 2, 0])
    assert {name: part.tolist() for name, part in found.items()} == {"input_ids": [[3, 4], [5, 6], [1, 2]]}
