"""The rows of `apt-plugin bench groot` on the real host: counted FLOPs against their floors."""

from __future__ import annotations

from tests import processes

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import json
import sys

import pytest

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.bench import rows_of
from tests.hosts.gr00t import tiny

LIMIT = 1.05
pytestmark = pytest.mark.timeout(1800)  # counting runs every operation through Python: two minutes of CPU time


@pytest.fixture(scope="module")
def deep():
    """Real depths on a sixteenth of the widths, counted; K=8 differs from K=4 by draws alone and is left out."""
    rows = rows_of("deep", "cpu", rounds=0, only=lambda row: row.draws < 8)
    return {row.name: row for row in rows}


@pytest.mark.slow
def test_every_row_keeps_to_its_floor(deep):
    floored = [row for row in deep.values() if row.floor]
    assert len(floored) == 6
    for row in floored:
        assert row.flops <= LIMIT * row.floor, row.name
    stock = deep["host acting"].flops
    assert deep["APT acting"].flops <= 1.05 * stock
    assert deep["APT acting, guidance 1.5"].flops <= 1.15 * stock


@pytest.mark.slow
def test_a_draw_costs_what_the_trial_measured_or_less(deep):
    """0.36 of the host's frozen step per draw at K=4; here in counted FLOPs, at narrow widths."""
    frozen = deep["host, frozen backbone"].flops
    assert deep["APT Stage 1, K=4"].flops / 4 <= 0.36 * frozen
    assert deep["APT Stage 1, K=1, cache"].flops < 0.6 * deep["APT Stage 1, K=1"].flops
    assert deep["host, everything trained"].flops > 1.3 * frozen


@pytest.mark.slow
def test_the_command_writes_its_rows(tmp_path):
    """Where lerobot is not installed, `bench groot` is this host's."""
    command = [sys.executable, "-m", "apt_plugin", "bench", "groot", "--size", "tiny", "--rounds", "1", "--plain"]
    done = processes.run(
        [*command, "--json", str(tmp_path / "rows.json")], env=tiny.environment(), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "APT Stage 2, frozen VLM, cache" in done.stdout
    kept = json.loads((tmp_path / "rows.json").read_text())
    assert kept["facts"]["host"] == "Isaac GR00T"
    assert all(row["seconds"] > 0 for row in kept["rows"])


def test_the_default_holds_the_hosts_own_and_its_added_parameters():
    """`bench groot --device meta --memory`: the head's step is counted; the VLM's own pass is left out throughout."""
    rows = rows_of("tiny", "meta", 1, memory=True)
    assert len(rows) == 7
    host, first, four, one, trained, wide, _ = rows
    for own, ours in ((host, four), (trained, wide)):
        assert sum(ours.standing.values()) <= sum(own.standing.values()) + 0.75 * ours.added
        assert ours.added > 0
    assert first.total < host.total + 1e6
    assert one.total < four.total
    assert trained.total > host.total + 3 * 4 * 1e5  # its VLM's weights have gradients and moments


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(AptError, match="asks values of its inputs"):
        rows_of("tiny", "meta", 0)
    with pytest.raises(AptError, match="size"):
        rows_of("huge", "cpu", 0)
