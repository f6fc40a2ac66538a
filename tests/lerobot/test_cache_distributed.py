"""1, 2 and 4 processes under accelerate: one cache, one loss, one set of weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from apt_plugin.cache import Cache
from tests.lerobot import datasets


def losses(text: str) -> list[float]:
    return [float(value) for value in re.findall(r" loss:([0-9.]+) ", text)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_two_and_four_processes_share_a_cache_and_take_the_same_steps(
    data, plain, tok: str, tmp_path: Path
) -> None:
    """The same eight frames per step, the same loss as lerobot averages it, and every shard computed by one process."""
    found = {}
    for n in (1, 2, 4):
        multi = ["--multi_gpu"] if n > 1 else []
        flags = datasets.flags(data["labelled"], tok, steps=2, save_freq=2, output_dir=tmp_path / f"run{n}")
        done = datasets.call(
            "apt-plugin", "run", "accelerate", "launch", *multi, f"--num_processes={n}", "--num_machines=1",
            "--mixed_precision=no", "--dynamo_backend=no", "lerobot-train", "--policy.type=pi05",
            f"--policy.pretrained_path={plain['pi05']}", *flags, f"--batch_size={8 // n}", "--recipe", "apt",
            "--apt.stage", "1", "--apt.cache", str(tmp_path / f"cache{n}"), timeout=900,
        )  # fmt: skip
        text = done.stdout + done.stderr
        made = [
            [int(s) for s in part.split(",") if s.strip()] for part in re.findall(r"computed shards \[(.*?)\]", text)
        ]
        assert len(made) == n
        assert sorted(shard for part in made for shard in part) == list(range(6))  # each once
        folder = tmp_path / f"cache{n}/stage1"
        assert Cache(folder).complete
        weights = load_file(tmp_path / f"run{n}/stage1/checkpoints/last/pretrained_model/model.safetensors")
        found[n] = ({p.name: p.read_bytes() for p in folder.iterdir()}, losses(text), weights)
    start = load_file(plain["pi05"] / "model.safetensors")
    shards, loss, weights = found[1]
    assert len(loss) == 2
    assert any(not (weights[name] == start[name]).all() for name in start)
    for n in (2, 4):
        assert found[n][0] == shards  # byte for byte, whoever made them
        assert found[n][1] == pytest.approx(loss, abs=1.1e-3)  # the log has three decimals
        worst = max(float((weights[name] - found[n][2][name]).abs().max()) for name in weights)
        assert worst < 1e-5, (n, worst)
