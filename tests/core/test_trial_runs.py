"""The short runs of a trial: what is done stays done, several processes share them. Children are lines of Python."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from apt_plugin import files
from apt_plugin.hosts.adapter import Command
from apt_plugin.run.staged import call
from apt_plugin.trial import progress, runs
from tests import processes

CHILD = """
import pathlib, sys, time
what, folder, seconds = sys.argv[1:]
folder = pathlib.Path(folder)
with open(folder.parent / "started" if what == "ask" else folder.parent.parent / "started", "a") as file:
    file.write(f"{what} {folder.name if what == 'ask' else folder.parent.name}\\n")
if what == "train":
    folder.mkdir()
    (folder / "weights").touch()
time.sleep(float(seconds))
if what == "ask":
    (folder / "answer.json").write_text("{}")
"""


def shorts(slow: str = "", fails: str = "") -> list[runs.Short]:
    def start(what: str, way: str, folder: Path) -> int:
        seconds = "60" if slow == f"{what} {way}" else "0"
        code = "raise SystemExit(3)" if fails == f"{what} {way}" else CHILD
        return call(Command([sys.executable, "-c", code, what, str(folder), seconds]))

    return [
        runs.Short(way, 0, way, lambda f, w=way: start("train", w, f), lambda f, w=way: start("ask", w, f))
        for way in ("own", "gated")
    ]


def started(trial: Path) -> list[str]:
    path = trial / "started"
    return path.read_text().splitlines() if path.is_file() else []


@contextmanager
def begun(moment: str, folder: Path) -> Iterator[Any]:
    """Another process of the trial, which has come to a moment and stays there."""
    code = f"import sys; from pathlib import Path; from tests.core.test_trial_runs import runs, shorts\n" \
           f"sys.exit(runs.carry(shorts({moment!r}), Path({str(folder)!r})))"  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with processes.running([sys.executable, "-c", code], env=environment) as trial:
        end = time.monotonic() + processes.HANG
        while f"{moment}-0" not in started(folder) and time.monotonic() < end:
            time.sleep(0.02)
        yield trial


@pytest.mark.parametrize("moment", ["train gated", "ask gated"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_trial_goes_on_and_keeps_what_is_done(moment: str, number: signal.Signals, tmp_path: Path) -> None:
    with begun(moment, tmp_path) as trial:
        trial.send_signal(number)
        status = trial.wait(processes.HANG)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
    assert not (tmp_path / "gated-0" / "answer.json").exists()
    before = started(tmp_path)
    assert runs.carry(shorts(), tmp_path) == 0
    again = [] if moment == "ask gated" else ["train gated-0"]
    assert started(tmp_path)[len(before) :] == [*again, "ask gated-0"]
    assert not list(tmp_path.rglob("weights"))
    (tmp_path / "gated-0/run").mkdir()  # the process that asked outlived a trial that was killed
    assert runs.carry(shorts(), tmp_path) == 0
    assert not (tmp_path / "gated-0/run").exists()
    assert started(tmp_path)[len(before) :] == [*again, "ask gated-0"]


def test_a_second_process_takes_other_runs_and_both_end_when_all_is_done(tmp_path: Path) -> None:
    """And what the first gives up is done by the second."""
    with begun("train own", tmp_path) as first:
        seen: list[str] = []
        giving_up = threading.Timer(2, first.terminate)

        def before(run: runs.Short) -> None:
            rows, left, hands = progress.lines(shorts(), tmp_path, run)
            seen.append(f"{run.way} {[state for _, state in rows]} {hands}")
            assert left is None or left >= 0
            if run.way == "gated":
                giving_up.start()

        assert runs.carry(shorts(), tmp_path, before=before) == 0
        assert first.wait(processes.HANG) == 128 + signal.SIGTERM
    assert started(tmp_path) == ["train own-0", "train gated-0", "ask gated-0", "train own-0", "ask own-0"]
    assert seen[0] == "gated ['in another process', 'now'] 2"
    assert re.fullmatch(r"own \['now, about \d+ s left', 'done in \d+ s'\] 1", seen[1])


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path: Path) -> None:
    assert runs.carry(shorts(fails="train own"), tmp_path) == 1
    own, gated = shorts()
    assert runs.failed(own, tmp_path) == "its training ended with exit status 3; its own words stand above."
    assert runs.answer(own, tmp_path) is None
    assert runs.answer(gated, tmp_path) == {}
    assert runs.carry(shorts(), tmp_path) == 0
    assert started(tmp_path) == ["train gated-0", "ask gated-0", "train own-0", "ask own-0"]
    assert (runs.failed(own, tmp_path), runs.seconds(own, tmp_path) > 0) == ("", True)
    assert runs.asking(own, tmp_path) > 0


def test_the_time_left_is_told_by_what_was_measured_then_by_the_runs_that_are_done(tmp_path: Path) -> None:
    own, gated = (replace(run, expected=seconds) for run, seconds in zip(shorts(), (600.0, 1200.0), strict=True))
    assert progress.lines([own, gated], tmp_path, own) == (
        [("own", "now, about 10 min left"), ("gated", "waits, about 20 min")], 1800.0, 1,
    )  # fmt: skip
    runs.carry([own], tmp_path)
    files.write_json(tmp_path / "own-0" / runs.TRAINED, {"seconds": 4000.0, "asking": 200.0})
    rows, left, _ = progress.lines([own, replace(gated, expected=None)], tmp_path, None)
    assert (rows, left) == ([("own", "done in 70 min"), ("gated", "waits, about 70 min")], 4200.0)
    said = StringIO()
    progress.show([own, gated], tmp_path, gated, Console(file=said, width=80))
    assert said.getvalue().split("\n")[0] == "trial: about 20 min left"
    assert re.search(r"gated +now, about 20 min left", said.getvalue())
    files.write_json(tmp_path / "gated-0" / runs.FAILED, {"why": "no"})
    assert progress.lines([gated], tmp_path, None)[0] == [("gated", "failed; the same command tries it again")]


LAUNCHER = """
import pathlib, signal, sys, time
def leave(number, frame):
    sys.exit(1)
signal.signal(signal.SIGINT, leave)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def test_ctrl_c_ends_a_trial_of_a_launcher_that_ends_with_a_status_of_its_own(tmp_path: Path) -> None:
    """torchrun's is 1, which is a failed run's, too."""
    code = (
        "import sys; from pathlib import Path; from apt_plugin.hosts.adapter import Command\n"
        "from apt_plugin.run.staged import call; from apt_plugin.trial import runs\n"
        "trial, launcher = Path(sys.argv[1]), sys.argv[2]\n"
        "train = lambda run: call(Command([sys.executable, '-c', launcher, str(run.parent / 'started')]))\n"
        "sys.exit(runs.carry([runs.Short(way, 0, way, train, lambda _: 0) for way in ('own', 'gated')], trial))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), LAUNCHER]
    with processes.running(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as trial:
        end = time.monotonic() + processes.HANG
        while not (tmp_path / "own-0" / "started").exists() and time.monotonic() < end:
            time.sleep(0.02)
        trial.send_signal(signal.SIGINT)
        assert trial.wait(processes.HANG) == 128 + signal.SIGINT
    assert not (tmp_path / "own-0" / "failed.json").exists()
    assert not (tmp_path / "gated-0").exists()
