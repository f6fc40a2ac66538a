"""The proofs hold one model at a time: a whole stock one stood beside it, for its names and shapes."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import gc

import pytest
import torch
from transformers import AutoModel

from apt_plugin.backends.torch_params import shapes
from apt_plugin.hosts.gr00t import prove
from tests.hosts.gr00t.test_contracts import stage1


def held() -> int:
    """Bytes of all parameters that this process holds."""
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, torch.nn.Parameter) and each.device.type == "cpu"]
    return sum({p.data_ptr(): p.untyped_storage().nbytes() for p in found}.values())


@pytest.fixture
def folder(where, tmp_path):
    return stage1(where, tmp_path / "s1", 2, {})


def test_the_stock_models_names_are_those_of_one_that_was_built(where, folder):
    stock = AutoModel.from_pretrained(where / "base2")
    assert prove.stock_tree(stock.config) == shapes(stock)


def test_one_model_is_in_memory_from_the_opening_to_the_switch(folder, monkeypatch):
    before, peaks, load = held(), [], prove.load
    tree = prove.stock_tree
    monkeypatch.setattr(prove, "stock_tree", lambda config: (tree(config), peaks.append(held()))[0])
    subject = prove.open_subject(folder)
    size = held() - before
    monkeypatch.setattr(prove, "load", lambda path: (peaks.append(held()), load(path))[1])
    subject.switched()
    opened, switched = ((peak - before) / size for peak in peaks)
    print(f"held {opened:.2f} times the weights at the opening, {switched:.2f} when Stage 2 is loaded")
    assert opened < 1.05
    assert switched < 0.05
