"""Folding: a stock host, without the plugin's model, gives the same actions; elsewhere a refusal with the reason."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import json

import pytest
import torch

from apt_plugin import doctor, proofs
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import prove, records
from tests.hosts.gr00t.test_contracts import actions_of, stage1


def stage2(where, tmp_path, adapter, recipe):
    """A Stage-2 checkpoint with gates open by different amounts, and its subject."""
    import shutil

    first = stage1(where, tmp_path / "s1", adapter, recipe)
    subject = prove.open_subject(first).switched()
    generator = torch.Generator().manual_seed(0)
    for fusion in subject.flow.apt_fusion.children():
        fusion.gate.w.data = torch.randn(fusion.gate.w.shape, generator=generator)
    folder = tmp_path / "s2"
    subject.flow.save_pretrained(folder)
    for path in first.iterdir():
        if path.suffix == ".json" and path.name != "apt.json" and not (folder / path.name).exists():
            shutil.copy(path, folder)
    records.write(subject.flow, folder)
    return folder, subject


@pytest.mark.parametrize("gate", ["scalar", "head", "channel"])
@pytest.mark.parametrize(("adapter", "prefix"), [(2, "native"), (0, "isolated"), (0, "native")])
def test_folded_checkpoint_is_stock_and_acts_the_same(where, tmp_path, gate, adapter, prefix, capsys):
    from transformers import AutoModel

    recipe = {"fusion.kind": "host", "fusion.gate": gate, "prefix": prefix, "fusion.every": 1}
    folder, subject = stage2(where, tmp_path, adapter, recipe)
    assert doctor.export(folder, tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "Gr00tN1d7"
    assert not (tmp_path / "out" / "apt.json").exists()
    stock, info = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(stock).__name__ == "Gr00tN1d7"
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = subject.make_batch(("stop", "go on and on"), 0, 0)
    mine, theirs = actions_of(subject.flow.eval(), inputs), actions_of(stock.eval(), inputs)
    difference = proofs.relative(mine, theirs)
    with capsys.disabled():
        print(
            f"\n  fold, adapter {adapter}, {prefix}, {gate}: {difference:.2g} of actions of size {abs(mine).max():.2g}"
        )
    assert difference <= 1e-6
    closed = AutoModel.from_pretrained(where / f"base{adapter}").eval()
    assert proofs.furthest(mine, actions_of(closed, inputs)) > 1e-3  # the gates did matter


def test_text_blocks_without_a_gate_stay_off(where, tmp_path):
    from transformers import AutoModel

    folder, subject = stage2(where, tmp_path, 0, {"fusion.kind": "host", "fusion.every": 2})
    assert len(subject.flow.apt_fusion.sites) == 1
    doctor.export(folder, tmp_path / "out")
    inputs = subject.make_batch(("stop", "go on"), 0, 0)
    stock = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert proofs.relative(actions_of(subject.flow.eval(), inputs), actions_of(stock, inputs)) <= 1e-6


def test_refused_with_the_reason(where, tmp_path):
    out = tmp_path / "out"
    folder, _ = stage2(where, tmp_path / "a", 2, {"fusion.kind": "host"})
    with pytest.raises(AptError, match="isolated adapter"):
        doctor.export(folder, out)
    with pytest.raises(AptError, match="listens to nothing"):
        doctor.export(tmp_path / "a" / "s1", out)
    folder, _ = stage2(where, tmp_path / "b", 0, {})
    with pytest.raises(AptError, match="adds layers"):
        doctor.export(folder, out)
    folder, _ = stage2(where, tmp_path / "c", 0, {"fusion.kind": "host", "guidance_scale": 2.0})
    with pytest.raises(AptError, match=r"guidance_scale is 2\.0"):
        doctor.export(folder, out)
    assert not out.exists()
