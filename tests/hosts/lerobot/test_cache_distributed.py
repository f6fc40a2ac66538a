"""1, 2 and 4 processes: one cache, one loss, one set of weights. (accelerate's own command: test_cache.py.)"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from apt_plugin.backends import torch_ranks
from apt_plugin.cache import Cache
from tests import ranks
from tests.hosts.lerobot import datasets


def losses(text: str) -> list[float]:
    return [float(value) for value in re.findall(r" loss:([0-9.]+) ", text)]


def computed(text: str) -> list[list[int]]:
    """The shards that each process computed."""
    found = re.findall(r"computed shards \[(.*?)\]", text)
    return [[int(shard) for shard in part.split(",") if shard.strip()] for part in found]


def build_and_train(*flags: str) -> None:
    """What the launcher starts under accelerate for Stage 1: the build, then the training, each in all ranks."""
    held: list[int] = []
    let_go = torch_ranks.let_go
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_ranks, "let_go", lambda: (held.append(len(torch_ranks._kept)), let_go()))
        datasets.cache_program("build", *flags)
        datasets.lerobot_train(*flags)
    assert held == [1, 1]  # the host has returned, and its group is still there


def build(n: int, folder: Path, flags: list[str]) -> str:
    """Build and train in n processes, eight frames a step; what they logged."""
    more = f"--policy.recipe.cache={folder / f'cache{n}'}", f"--batch_size={8 // n}"
    return "".join(ranks.run(n, folder / f"logs{n}", build_and_train, *flags, *more))


# How far the weights of several processes may be from one's: see test_training, where it was measured. The sums of a
# gradient come in another order, and AdamW turns a rounding near zero into a step of the learning rate's size.
SAME = 3e-5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_two_and_four_processes_share_a_cache_and_take_the_same_steps(
    data, plain, tok: str, tmp_path: Path
) -> None:
    """The same eight frames per step, the same loss as lerobot averages it, and every shard computed by one process."""
    found = {}
    for n in (1, 2, 4):
        flags = datasets.stage1(data["labelled"], plain["pi05"], tok, tmp_path / f"run{n}", steps=2, save_freq=2)
        text = build(n, tmp_path, flags)
        assert len(computed(text)) == n
        assert sorted(shard for part in computed(text) for shard in part) == list(range(6))  # each once
        folder = tmp_path / f"cache{n}/stage1"
        assert Cache(folder).complete
        weights = load_file(tmp_path / f"run{n}/checkpoints/last/pretrained_model/model.safetensors")
        found[n] = ({p.name: p.read_bytes() for p in folder.iterdir()}, losses(text), weights)
    start = load_file(plain["pi05"] / "model.safetensors")
    shards, loss, weights = found[1]
    assert len(loss) == 2
    assert any(not (weights[name] == start[name]).all() for name in start)
    for n in (2, 4):
        assert found[n][0] == shards  # byte for byte, whoever made them
        assert found[n][1] == pytest.approx(loss, abs=1.1e-3)  # the log has three decimals
        worst = max(float((weights[name] - found[n][2][name]).abs().max()) for name in weights)
        assert worst < SAME, (n, worst)


@pytest.mark.slow
def test_two_processes_train_stage2_from_a_cache_as_one_does(data, priors, tok: str, tmp_path: Path) -> None:
    """Stage 2 caches instructions too, and starts new layers: in every rank the same ones."""
    found = {}
    for n in (1, 2):
        flags = datasets.stage2(data["labelled"], priors["pi05"], tok, tmp_path / f"run{n}", steps=2, save_freq=2)
        text = build(n, tmp_path, flags)
        found[n] = losses(text), load_file(tmp_path / f"run{n}/checkpoints/last/pretrained_model/model.safetensors")
        assert sorted(shard for part in computed(text) for shard in part) == list(range(6))
        assert len(computed(text)) == n
    (one, weights), (two, others) = found[1], found[2]
    assert two == pytest.approx(one, abs=1.1e-3)  # the log has three decimals
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < SAME
