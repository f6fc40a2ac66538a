"""What the launcher does with signals, as real processes: passed on, waited for, and never followed by a next stage."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from apt_plugin.run.child import call
from tests import processes
from tests.core.test_processes import gone, written

LAUNCHER = "import sys; from apt_plugin.run.child import call; sys.exit(call([sys.executable, '-c', *sys.argv[1:]]))"
STUBBORN = """
import os, pathlib, signal, sys, time
def leave(number, frame):
    pathlib.Path(sys.argv[2]).write_text(str(number))
    time.sleep(0.5)  # a checkpoint is being finished
    sys.exit(int(sys.argv[3]))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, leave)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
# `accelerate launch` with one process: it dies of SIGTERM and leaves its training behind.
FORGETFUL = """
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
child.wait()
"""


@pytest.mark.parametrize(("name", "ends", "status"), [("SIGTERM", 7, 7), ("SIGHUP", 7, 7), ("SIGINT", 7, 7)])
def test_a_signal_reaches_the_child_and_its_status_comes_back(
    tmp_path: Path, name: str, ends: int, status: int
) -> None:
    command = [sys.executable, "-c", LAUNCHER, STUBBORN, tmp_path / "pid", tmp_path / "got", str(ends)]
    with processes.running(command) as launcher:
        child = written(tmp_path / "pid")
        launcher.send_signal(getattr(signal, name))
        assert launcher.wait(60) == status
        assert written(tmp_path / "got") == getattr(signal, name)
        assert gone(child)


def test_a_child_that_ends_well_after_a_signal_is_not_a_finished_stage(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LAUNCHER, STUBBORN, tmp_path / "pid", tmp_path / "got", "0"]
    with processes.running(command) as launcher:
        written(tmp_path / "pid")
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 128 + signal.SIGTERM


def test_what_the_child_leaves_behind_ends_too(tmp_path: Path) -> None:
    with processes.running([sys.executable, "-c", LAUNCHER, FORGETFUL, tmp_path / "pid"]) as launcher:
        left = written(tmp_path / "pid")
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 128 + signal.SIGTERM
        assert gone(left)


def test_a_status_is_a_shells() -> None:
    assert call([sys.executable, "-c", "import sys; sys.exit(3)"]) == 3
    assert call([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]) == 137
    assert call([sys.executable, "-c", "pass"]) == 0
