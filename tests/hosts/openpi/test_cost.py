"""What the recipe costs in openpi, counted in the host's own train_step and sample_actions: `apt-plugin bench`.

    K noise draws

Ratios against the host's own steps in one run. Figures are printed (pytest -s).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import openpi
import optax
import pytest
from openpi.models import siglip
from openpi.shared import array_typing as at

from apt_plugin.hosts.openpi import bench, bench_host, bench_rows
from tests import processes
from tests.hosts.openpi import tiny

CHECKOUT = Path(openpi.__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not (CHECKOUT / "scripts/train.py").is_file(), reason="openpi is no checkout here"),
]
LEFT_OUT = ("K=8", "cached images", "acting")
COUNTED_WITH_ONE_DRAW = ("APT Stage 2, LoRA on the VLM", "APT Stage 2, VLM trained")
FULL, FROZEN, LORA = "host, everything trained", "host, VLM frozen by freeze_filter", "host, LoRA on the VLM"


def wanted(row) -> bool:
    return row.name not in COUNTED_WITH_ONE_DRAW and not any(words in row.name for words in LEFT_OUT)


@pytest.fixture(scope="module")
def rows():
    """VLM 512 x 8, expert 256 x 8, float32, compiled from shapes alone."""
    patch = pytest.MonkeyPatch()
    patch.setattr(siglip, "Module", tiny.REAL_SIGLIP)
    found = bench.rows_of("pi0", "quarter", "meta", 0, only=wanted)
    patch.undo()
    full = found[0]
    for row in found:
        print(
            f"{row.name:34s} {row.flops / 1e9:8.2f} GFLOP {row.flops / full.flops:6.3f} x   "
            f"temp {row.peak / 2**20:7.1f} MiB {row.peak / full.peak:6.3f} x   "
            + (f"of floor {row.of_floor:.3f}" if row.of_floor else "")
        )
    return {row.name: row for row in found}


def test_a_stage_1_step_costs_what_the_design_allows(rows):
    full = rows[FULL]
    assert rows[FROZEN].flops / full.flops > 0.6  # naive freezing is what this saves over
    assert rows["APT Stage 1, K=1"].flops / full.flops <= 0.29
    assert rows["APT Stage 1, K=4"].flops / 4 / full.flops <= 0.10


@pytest.mark.parametrize("name", ["APT Stage 1, K=1", "APT Stage 1, K=4", "APT Stage 2, frozen VLM"])
@pytest.mark.parametrize("cache", ["", ", cache"])
def test_a_step_is_as_good_as_its_floor(rows, name, cache):
    """Prefix once and K x expert forward and backward; from a cache the second part alone."""
    assert 0.8 < rows[name + cache].of_floor <= 1.05


def test_no_activation_of_a_frozen_vlm_is_kept_whatever_the_draws(rows):
    assert rows["APT Stage 1, K=4"].peak / rows[FULL].peak <= 0.25
    held = rows["APT Stage 1, K=4, cache"].standing
    assert held["frozen weights"] < 0.01 * rows["APT Stage 1, K=4"].standing["frozen weights"]


def test_the_unchanged_step_keeps_more_where_a_cpu_compiles_it(monkeypatch):
    """With the norms that the host logs, and its frozen weights in bfloat16: what the rows above leave out. A CPU keeps
    all kernels squared for the one and float32 copies for the other, and nearly as much as full training is left.
    """
    monkeypatch.setattr(siglip, "Module", tiny.REAL_SIGLIP)
    monkeypatch.setattr(bench_host, "single", lambda config, tree: tree)
    with bench_host.sized(bench_host.SIZES["quarter"]), at.disable_typechecking():
        made = bench_rows.Bench("pi0", bench_host.SIZES["quarter"], True)
        made.train.optax = optax
        used = [made.step(config).program.memory_analysis() for config in (made.full, made.apt(1, noise_draws=4))]
    full, prior = (each.temp_size_in_bytes for each in used)
    print(f"the unchanged train_step: {prior / full:.2f} of full training's temp memory")
    assert 0.85 < prior / full < 0.95  # as examples/openpi.md says; lower: say so there


@pytest.mark.parametrize(("ours", "theirs"), [("VLM trained", FULL), ("LoRA on the VLM", LORA)])
def test_a_vlm_that_trains_stays_at_the_hosts_memory(rows, ours, theirs):
    """Layers are computed again in the backward pass, as in the host."""
    row, host = rows[f"APT Stage 2, {ours}, K=1"], rows[theirs]
    assert row.peak / host.peak <= 1.05
    assert row.flops / host.flops <= 1.1


def test_draws_and_freezing_save_time_too():
    """CPU seconds in one process, the best of some rounds."""
    chosen = (FULL, "APT Stage 1, K=1", "APT Stage 1, K=4")
    patch = pytest.MonkeyPatch()
    patch.setattr(siglip, "Module", tiny.REAL_SIGLIP)
    full, one, four = bench.rows_of("pi0", "quarter", "cpu", 5, only=lambda row: row.name in chosen)
    patch.undo()
    print(f"time: K=1 {one.seconds / full.seconds:.3f}, K=4 per draw {four.seconds / 4 / full.seconds:.3f} of full")
    assert one.seconds / full.seconds <= 0.24
    # 0.060 on the machine of the documents' table, 0.079 to 0.083 on an idle one of another day, before and after the
    # changes of that day; counted FLOPs, which guard the cost above, say 0.085 on both.
    assert four.seconds / 4 / full.seconds <= 0.1


def real_size(family: str, batch: int, *names: str) -> dict[str, dict]:
    """Full-size rows in a process of its own: XLA's flags are read once."""
    code = (
        "import json, sys\n"
        "from apt_plugin.hosts.openpi import bench\n"
        "rows = bench.rows_of(sys.argv[1], 'real', 'meta', 0, int(sys.argv[2]), lambda row: row.name in sys.argv[3:])\n"
        "print('RESULT ' + json.dumps([row.as_json() for row in rows]))\n"
    )
    environment = os.environ | {"XLA_FLAGS": bench.HOIST_OFF, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "ignore", "-c", code, family, str(batch), *names]
    done = processes.run(command, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    return {row["name"]: row for row in json.loads(lines[0].removeprefix("RESULT "))}


def test_full_size_stage_1_fits_a_common_card():
    """π0.5 in bfloat16, planned by XLA from shapes: weights, AdamW's moments, gradients and activations."""
    for batch in (1, 8):
        (row,) = real_size("pi05", batch, "APT Stage 1, K=4").values()
        print(f"full-size pi05, batch {batch}: {row['total'] / 2**30:.2f} GiB")
        assert row["total"] < 16 * 2**30


def test_full_size_acting_costs_what_the_stock_policy_costs():
    found = real_size("pi05", 1, "host acting", "APT acting", "APT acting, guidance 1.5")
    ratios = [
        found[name]["flops"] / found["host acting"]["flops"] for name in ("APT acting", "APT acting, guidance 1.5")
    ]
    print(f"full-size pi05 acting: {ratios[0]:.3f} of stock, {ratios[1]:.3f} with guidance")
    assert ratios[0] <= 1.05
    assert ratios[1] <= 1.15
