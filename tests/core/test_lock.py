"""One launcher per run folder: who has it is said, and what died holds nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from apt_plugin.errors import AptError
from apt_plugin.run.lock import hold, only_one, path_of
from tests import processes
from tests.core.test_processes import gone, written

HOLDER = """
import os, pathlib, sys, time
from apt_plugin.run.child import call
from apt_plugin.run.lock import only_one
CHILD = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
with only_one(pathlib.Path(sys.argv[1])):
    call([sys.executable, "-c", CHILD, sys.argv[2]])
"""


def test_a_second_run_is_refused_with_the_owner(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with processes.running([sys.executable, "-c", HOLDER, run, tmp_path / "pid"]) as owner:
        written(tmp_path / "pid")
        said = rf"process {owner.pid} on {re.escape(socket.gethostname())}"
        with pytest.raises(AptError, match=said), only_one(run):
            pass
        with only_one(tmp_path / "another"):
            pass
    with only_one(run):  # it was killed: its file is there, and stale
        assert str(os.getpid()) in path_of(run).read_text()
    assert not path_of(run).exists()
    assert not run.exists()  # the hosts refuse a folder that is there


def test_a_child_that_outlives_its_launcher_keeps_the_folder(tmp_path: Path) -> None:
    """SIGKILL of the launcher leaves its training running: a --resume would train beside it."""
    run = tmp_path / "run"
    with processes.running([sys.executable, "-c", HOLDER, run, tmp_path / "pid"]) as owner:
        child = written(tmp_path / "pid")
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with pytest.raises(AptError, match="or a process that it started"), only_one(run):
            pass
        os.kill(child, signal.SIGKILL)
        assert gone(child)
        with only_one(run):
            pass


def test_ranks_of_one_launch_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with only_one(tmp_path / "run"):
        monkeypatch.setenv("RANK", "1")
        with only_one(tmp_path / "run"):
            pass


HOLDING = """
import pathlib, sys, time
from apt_plugin.run.lock import hold
for _ in range(2): hold(pathlib.Path(sys.argv[1]))
pathlib.Path(sys.argv[2]).write_text("1")
time.sleep(float(sys.argv[3]))
"""


@pytest.mark.parametrize("stage", [False, True])
def test_a_hosts_own_command_holds_its_folder_to_its_end(tmp_path: Path, stage: bool) -> None:
    """In a stage's folder it holds the whole run: the launcher may train either stage."""
    run = tmp_path / "run"
    folder = run / "stage2" if stage else run
    with processes.running([sys.executable, "-c", HOLDING, folder, tmp_path / "at", "600"]) as owner:
        written(tmp_path / "at")
        with pytest.raises(AptError, match=f"process {owner.pid} on"), only_one(run):
            pass
    assert processes.run([sys.executable, "-c", HOLDING, str(folder), str(tmp_path / "at"), "0"]).returncode == 0
    assert not path_of(folder).exists()
    with only_one(run), pytest.raises(AptError, match=f"process {os.getpid()} on"):
        hold(folder)
