"""Stage 1 of the full-size models on one 24 GB card at batch 8: counted without a device, the sums spelt out."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

from apt_plugin.backends.torch_live import LiveBytes, peak_of, standing

CARD = 24e9 - 1.5e9  # bytes: what the driver, the CUDA context and an allocator's gaps take is left out


def test_live_bytes_are_those_of_an_eager_allocator() -> None:
    """A chain of 4 MB tensors: without a graph two live at a time, with one all of them."""
    x = torch.empty(1024, 1024, device="meta")

    def chain(x):
        for _ in range(10):
            x = x * 2.0
        return x

    with LiveBytes([x]) as live:
        out = chain(x)
    assert live.peak == 2 * 4 * 2**20
    assert live.now == 4 * 2**20
    del out
    assert live.now == 0
    weight = nn.Parameter(torch.empty(1024, 1024, device="meta"))
    with LiveBytes([x, weight]) as live:
        out = x
        for _ in range(10):
            out = torch.sigmoid(out @ weight)
    gc.collect()
    assert live.now == 10 * 4 * 2**20  # each sigmoid's output is what the next product and its own backward pass keep


def test_standing_bytes_hold_nothing_for_what_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    model[0].requires_grad_(False)
    assert standing(model) == {
        "frozen weights": 40_000, "trained weights": 40_000, "optimizer": 80_000, "buffers": 0,
    }  # fmt: skip
    model[0].requires_grad_(True)
    assert standing(model)["optimizer"] == 160_000


def test_peak_counts_gradients() -> None:
    model = nn.Linear(1000, 1000, bias=False, device="meta")
    x = torch.empty(1, 1000, device="meta")
    assert 4e6 <= peak_of(model, lambda: model(x).sum().backward()) < 4.2e6


def total(row) -> float:
    print(f"{row.name}: step {row.peak / 2**30:.2f} GiB, " + ", ".join(
        f"{name} {size / 2**30:.2f}" for name, size in row.standing.items()))  # fmt: skip
    return row.total


@pytest.mark.slow
def test_pi05_stage1_fits_and_the_hosts_own_freezing_does_not() -> None:
    """π0.5: 3 cameras, 64 text tokens, 50 actions, bfloat16 as the host has it (its vision tower stays float32)."""
    from apt_plugin.hosts.lerobot import register
    from apt_plugin.hosts.lerobot.bench import rows_of

    register()
    wanted = ("APT Stage 1, K=4", "APT Stage 1, K=4, cache", "host, train_expert_only")
    rows = {row.name: row for row in rows_of("pi05", "real", "meta", 1, batch=8, only=lambda r: r.name in wanted)}
    assert total(rows["APT Stage 1, K=4"]) < CARD
    assert total(rows["host, train_expert_only"]) > CARD
    light, heavy = (rows[name] for name in ("APT Stage 1, K=4, cache", "APT Stage 1, K=4"))
    assert light.standing["frozen weights"] < 0.1 * heavy.standing["frozen weights"]  # the VLM is not there
    assert total(light) < 0.6 * total(heavy)
    # 0.43 B expert weights: bfloat16 but for its norms, and two moments each
    assert 0.8e9 < heavy.standing["trained weights"] < 1.2e9
    assert heavy.standing["optimizer"] == 2 * heavy.standing["trained weights"]


@pytest.mark.slow
def test_groot_stage1_fits_by_default_and_not_with_a_float32_head(figure: Any) -> None:
    """GR00T N1.7: 2 cameras. The host's default holds what trains in float32, which alone fills the card."""
    from apt_plugin.hosts.lerobot import register
    from apt_plugin.hosts.lerobot.families.groot.bench import memory

    register()
    for fp32 in (False, True):
        for cached in (False, True):
            parts = memory(8, 4, fp32, cached)
            told = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
            figure(f"GR00T Stage 1, head in {'float32' if fp32 else 'bfloat16'}{', cache' * cached}: {told} GiB")
            assert (parts["total"] < CARD) == (not fp32)
            assert parts["optimizer"] == 2 * parts["trained weights"]
            if cached:
                assert parts["frozen weights"] < 0.2 * memory(8, 4, fp32)["frozen weights"]


# SmolVLA with everything trained keeps what its new layers read of the VLM, beside them: 0.4 of 25.2 GiB at full size.
KEPT = {("pi05", True): 0, ("pi05", False): 0, ("smolvla", True): 0.06, ("smolvla", False): 0}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pi05", "smolvla"])
def test_the_default_needs_the_hosts_own_memory_its_added_parameters_and_its_noise_draws(family: str) -> None:
    """By the one command of `examples/cost.md`, on tiny models: what is beyond the first two vanishes with one draw."""
    from apt_plugin.hosts.lerobot import register
    from apt_plugin.hosts.lerobot.bench import rows_of

    register()
    rows = rows_of(family, "tiny", "meta", 1, memory=True)
    by_command = {name: [row for row in rows if row.command == name] for name in {row.command for row in rows}}
    assert len(by_command) == 2
    for name, (host, *ours) in by_command.items():
        four, one = (row for row in ours if row.name.startswith("APT Stage 2"))
        assert (four.draws, one.draws, host.added) == (4, 1, 0)
        assert 0 < four.added == one.added
        assert sum(four.standing.values()) <= sum(host.standing.values()) + 0.75 * four.added  # gradients: in the step
        assert one.total <= host.total + one.added + KEPT[family, "everything" in name] * host.total
        assert one.total < four.total
