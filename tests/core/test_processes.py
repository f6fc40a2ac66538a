"""A test ends all that it started: a child of a child too, after a time-out too."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from apt_plugin.files import is_running
from tests import processes

# A launcher whose child goes into a group of its own, as torchrun's workers do.
FAMILY = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def gone(pid: int) -> bool:
    """Whether a process ended; an orphan that nobody waits for stays in the table as a zombie."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not is_running(pid) or (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"):
            return True
        time.sleep(0.05)
    return False


def written(path: Path) -> int:
    while not (path.exists() and path.read_text()):
        time.sleep(0.05)
    return int(path.read_text())


def test_nothing_outlives_a_time_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="timed out after 5 seconds"):
        processes.run([sys.executable, "-c", FAMILY, tmp_path / "pid"], timeout=5)
    assert gone(written(tmp_path / "pid"))


def test_what_hangs_says_where_it_stands(tmp_path: Path) -> None:
    """A hang that happens once in a hundred runs is found by its first report, or not at all."""
    with pytest.raises(AssertionError) as hung:
        processes.run([sys.executable, "-c", FAMILY, tmp_path / "pid"], timeout=5)
    assert str(hung.value).count("most recent call first") == 2  # the launcher's stack and its child's


def test_nothing_outlives_a_block(tmp_path: Path) -> None:
    with processes.running([sys.executable, "-c", FAMILY, tmp_path / "pid"]):
        child = written(tmp_path / "pid")
        assert is_running(child)
    assert gone(child)
