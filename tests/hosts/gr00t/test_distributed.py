"""Two gloo processes under torchrun, through the host's own fine-tune script, take the steps that one takes."""

from __future__ import annotations

from tests import processes

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

from apt_plugin.backends.torch_groot_groups import check_sharded_groups
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.distributed import check_sharding
from apt_plugin.stages import read_record
from tests.hosts.gr00t import tiny

BATCHES = str(Path(__file__).with_name("same_batches.py"))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # six host processes, half a minute of imports each: 600 s at load 15
def test_two_processes_equal_one(where, tmp_path, capsys):
    """Both stages in one command. Without gloo the host stops: it knows NCCL only."""
    tiny.base(tmp_path / "base", 2, dropout=0.0)
    two = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        "29612",
    )
    runs = {}
    for world, before in ((1, ()), (2, two)):
        out = tmp_path / str(world)
        done = tiny.finetune(
            where, out, "--modality-config-path", BATCHES, "--state-dropout-prob", "0.0", "--apt.prove", "false",
            "--apt.fusion.kind", "host", "--num-gpus", str(world), base=str(tmp_path / "base"),
            before=before, environ={"APT_TEST_BATCHES": str(tmp_path / "batches")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert (world == 2) == ("2 processes talk through gloo" in done.stderr)
        runs[world] = out
    start = load_file(tmp_path / "base" / "model.safetensors")
    for stage in ("stage1", "stage2"):
        one, both = (runs[n] / stage / "checkpoint-4" for n in (1, 2))
        weights = [load_file(folder / "model.safetensors") for folder in (one, both)]
        assert weights[0].keys() == weights[1].keys()
        apart = max(float((weights[0][n] - weights[1][n]).abs().max()) for n in weights[0])
        moved = max(float((v - start[n]).abs().max()) for n, v in weights[0].items() if n in start)
        losses = [read_record(folder).curve.points("loss")[1] for folder in (one, both)]
        with capsys.disabled():
            print(f"\n  {stage}: weights moved by {moved:.2g}, two processes differ by {apart:.2g}; losses {losses[0]}"
                  f" differ by {np.abs(np.subtract(*losses)).max():.2g}")  # fmt: skip
        assert moved > 1e-4
        assert apart <= 1e-5
        np.testing.assert_allclose(losses[0], losses[1], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_zero2_takes_the_same_steps(where, tmp_path, capsys):
    """The host's own ZeRO-2 settings: groups with different rates, gates, frozen VLM and names survive its buffers."""
    from tests.hosts.gr00t.test_contracts import stage1

    tiny.base(where / "base_still", 2, dropout=0.0, state_dropout_prob=0.0)
    prior = stage1(where, tmp_path / "s1", "_still", {"fusion.kind": "host"})
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
                "--master-port", "29614"]  # fmt: skip
    for world, before in ((1, []), (2, torchrun)):
        done = processes.run(
            [sys.executable, *before, "-m", "tests.hosts.gr00t.zero_worker", str(prior), str(tmp_path / str(world))],
            cwd=where, env=tiny.environment() | {"DS_ACCELERATOR": "cpu"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-9000:]
    one, two = (load_file(tmp_path / str(n)) for n in (1, 2))
    start = load_file(prior / "model.safetensors")
    assert one.keys() == two.keys()
    # A key's bias shifts all scores of a query alike, so that its gradient is rounding and nothing else, which Adam
    # scales up to a step: 1.6e-5 was seen there, and nothing above 5e-6 elsewhere.
    apart = max(float((one[n] - two[n]).abs().max()) for n in one if not n.endswith("to_k.bias"))
    moved = max(float((v - start[n]).abs().max()) for n, v in one.items() if n in start)
    gates = [float(v.abs().max()) for n, v in two.items() if n.endswith("gate.w")]
    with capsys.disabled():
        print(f"\n  ZeRO-2: weights moved by {moved:.2g}, two processes differ from one by {apart:.2g}")
    assert gates
    assert min(gates) > 1e-5
    assert moved > 1e-4
    assert apart <= 1e-5


def test_zero3_is_refused():
    """Its processes hold slices: the hash over the VLM would be of empty tensors, and equal whatever happened."""
    check_sharding(SimpleNamespace(num_gpus=2, use_ddp=False, deepspeed_stage=2))
    with pytest.raises(AptError, match="deepspeed_stage is 3"):
        check_sharding(SimpleNamespace(num_gpus=2, use_ddp=False, deepspeed_stage=3))


def test_groups_that_zero_cannot_deal_are_refused():
    """DeepSpeed stops with "list index out of range" in the first backward pass: eight gates on eight processes."""
    import torch

    def group(n):
        return [{"params": [torch.nn.Parameter(torch.zeros(n))], "lr": 1e-4}]

    check_sharded_groups(group(8), 4)
    check_sharded_groups(group(1000), 8)
    for n, world in ((2, 2), (8, 8), (9, 8)):
        with pytest.raises(AptError, match="fusion_lr_scale 1"):
            check_sharded_groups(group(n), world)
