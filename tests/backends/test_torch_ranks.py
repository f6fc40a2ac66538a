"""What several processes of one training agree on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed

from apt_plugin.backends import torch_ranks
from tests import ranks


def one_of_two() -> None:
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    assert torch_ranks.writes() == (rank == 0)
    found = torch_ranks.mean({"loss": torch.tensor(0.1 + rank), "gap": 2.0 * rank})
    assert found == {"loss": pytest.approx(0.6), "gap": 1.0}
    torch_ranks.keep_group()
    torch_ranks.keep_group()
    torch_ranks.meet()
    torch_ranks.end_group()
    assert len(torch_ranks._kept) == 1
    torch_ranks.let_go()
    assert torch_ranks.writes()  # alone again


def test_two_processes_agree_and_keep_their_group(tmp_path: Path) -> None:
    ranks.run(2, tmp_path, one_of_two)


def test_one_process_needs_no_group() -> None:
    torch_ranks.keep_group()
    torch_ranks.meet()
    assert not torch_ranks._kept
    assert torch_ranks.writes()
    assert torch_ranks.mean({"loss": torch.tensor(0.1)}) == {"loss": float(torch.tensor(0.1))}
