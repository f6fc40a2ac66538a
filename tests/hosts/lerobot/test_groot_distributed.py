"""Two gloo processes take the steps that one takes, in both stages."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lerobot", reason="lerobot is not installed: its policies cannot run")

from tests import ranks
from tests.hosts.lerobot import groot_worker
from tests.hosts.lerobot import tiny_groot as tiny


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    base = tiny.base(tmp_path / "base", tiny.vlm_folder(tmp_path), dropout=0.0)
    tiny.stage1(base).save_pretrained(tmp_path / "s1")
    torch.manual_seed(0)
    start = dict(tiny.stage2(tmp_path / "s1", base).named_parameters())
    for prior in ("-", str(tmp_path / "s1")):
        for processes in (1, 2):
            out = str(tmp_path / f"{processes}.safetensors")
            ranks.run(processes, tmp_path / "logs", groot_worker.main, str(tmp_path), str(base), prior, out)
        one, two = (load_file(tmp_path / f"{n}.safetensors") for n in (1, 2))
        assert one.keys() == two.keys()
        moved = 0.0
        for name, value in one.items():
            torch.testing.assert_close(value, two[name], atol=2e-6, rtol=2e-5)
            moved = max(moved, float((value - start[name].detach()).abs().max()))
        assert moved > 1e-3  # they did step
