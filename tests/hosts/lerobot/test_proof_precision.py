"""A checkpoint is proven in the precision that it trains in, and its bits are as equal there as in float32.

The switch used to be measured between a Stage 1 turned to float32 and a Stage 2 left in bfloat16: it failed for every
policy that was trained as the launcher trains on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from apt_plugin import proofs
from apt_plugin.hosts.lerobot import prove
from apt_plugin.hosts.lerobot.families.groot import prove as prove_groot
from tests.hosts.lerobot import tiny, tiny_groot, tiny_smolvla

HALF, WHOLE = torch.bfloat16, torch.float32


def saved(policy: Any, folder: Path, stats: Any = None) -> Path:
    from lerobot.policies import make_pre_post_processors

    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(policy.config, dataset_stats=stats):
        processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Path], tok: str) -> Any:
    """Family -> a Stage-1 checkpoint as the launcher trains it on a GPU."""
    root = tmp_path_factory.mktemp("half")
    made = {family: saved(tiny.stage1(family, plain[family], tok, dtype="bfloat16"), root / family) for family in plain}
    vlm = tiny_smolvla.published(root / "vlm")
    base = tiny_smolvla.checkpoint(root / "smolvla_base", vlm)
    made["smolvla"] = saved(tiny_smolvla.apt(base, vlm, 1, load_vlm_weights=True), root / "smolvla")
    with tiny_groot.home(tmp_path_factory) as (folder, qwen):
        policy = tiny_groot.stage1(tiny_groot.base(folder / "base", qwen), use_bf16=True)
        yield made | {"groot": saved(policy, folder / "s1", tiny_groot.statistics())}


def failing(rows: list[proofs.Proof]) -> list[str]:
    return [f"{row.what}: {row.value} ({row.limit}) {row.note}" for row in rows if not row.passed]


@pytest.fixture
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of the host takes half a minute to import: asked in other tests."""
    for module in (prove, prove_groot):
        monkeypatch.setattr(module, "refuses_without_plugin", lambda _: (True, "asked in another case"))


@pytest.mark.parametrize("family", ["pi05", "pi0", "smolvla", "groot"])
def test_all_contracts_hold_in_bfloat16(half: Any, family: str, nobody_else: None, figure: Any) -> None:
    subject: Any = prove.open_subject(half[family])
    policy = subject.policy
    assert HALF in {p.dtype for p in policy.parameters()}
    assert subject.rounding == torch.finfo(HALF).eps
    held = sum(p.numel() * p.element_size() for p in policy.parameters())
    count = sum(p.numel() for p in policy.parameters())
    rows = proofs.prove(subject)
    assert not failing(rows)
    assert {row.contract for row in rows} == {1, 2, 3, 4, 5, 6, 7}
    layouts = max(float(row.value) for row in rows if "drop" in row.what)
    figure(f"{family}: {held / count:.2f} bytes a parameter; two layouts differ by {layouts:.2g}")


def test_a_leak_is_seen_in_bfloat16(plain: dict[str, Path], tok: str) -> None:
    policy = tiny.stage1("pi05", plain["pi05"], tok, {"prefix": "native"}, dtype="bfloat16")
    rows = proofs.no_leak(prove.LerobotSubject(policy, tiny.preprocessor(policy), plain["pi05"], list))
    assert min(float(row.value) for row in rows if ", other text" in row.what) > 1e-4
