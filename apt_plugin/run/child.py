"""A process that the launcher waits for: signals are passed on to it, and its status is the launcher's."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from apt_plugin.files import born
from apt_plugin.run import lock

logger = logging.getLogger(__name__)

PASSED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
PATIENCE = 30.0  # seconds for what a child left behind to end by itself
_ended_by = 0


def call(command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run a command to its end.

    SIGTERM, SIGINT and SIGHUP go to the child, and behind it to whatever it started and left alive: `accelerate
    launch` ends without its training. The locks of this process stay held as long as the child lives.

    Returns:
        The child's exit status, 128 + n where signal n ended it. Never 0 after a signal: no stage follows.
    """
    global _ended_by
    with _listening() as heard:
        process = subprocess.Popen(list(command), env=env, pass_fds=lock.handles())
        heard.child = process
        status = process.wait()
        if heard.signal:
            _end(heard.family, heard.signal)
    _ended_by = heard.signal
    status = 128 - status if status < 0 else status
    return status or (128 + heard.signal if heard.signal else 0)


def ended_by() -> int:
    """The signal that came while the last child ran, whose status may be its own (torchrun: 1); 0 for none."""
    return _ended_by


def refusal(code: str, *arguments: str) -> tuple[bool, str]:
    """Run a program of the host in a fresh process, where the plugin is never imported.

    Returns:
        Whether it stopped with an error, and the line that says why: one that names `apt`, else the last.
    """
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    words = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("  ")]
    named = [line for line in words if "apt" in line.lower()]
    return done.returncode != 0, (named or words or [""])[-1]


class _Heard:
    """The signals that came while a child ran."""

    def __init__(self) -> None:
        self.signal = 0
        self.family: list[tuple[int, str]] = []  # (pid, start time): a number may be given again
        self._child: subprocess.Popen | None = None

    @property
    def child(self) -> subprocess.Popen | None:
        return self._child

    @child.setter
    def child(self, process: subprocess.Popen) -> None:
        self._child = process
        if self.signal:  # it came while the child was being started
            self._pass(self.signal)

    def __call__(self, number: int, _frame: object) -> None:
        self.signal = number
        if self._child is not None:
            self._pass(number)

    def _pass(self, number: int) -> None:
        assert self._child is not None
        self.family += descendants(self._child.pid)
        if not (number == signal.SIGINT and _at_the_keyboard()):
            logger.info("APT: %s passed on to process %d.", signal.Signals(number).name, self._child.pid)
            self._child.send_signal(number)


@contextmanager
def _listening() -> Iterator[_Heard]:
    heard = _Heard()
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield heard
        return
    before = {number: signal.signal(number, heard) for number in PASSED}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_the_keyboard() -> bool:
    """Whether Ctrl-C reached the child by itself: a terminal sends it to all of its foreground group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def descendants(pid: int) -> list[tuple[int, str]]:
    """(pid, start time) of all that a process started, directly or not; empty on a system without /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, wanted = [], {pid}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted}
        found += [(child, born(child)) for child in wanted]
    return found


def _end(family: list[tuple[int, str]], number: int) -> None:
    """What outlives the child gets the signal too, and is killed when it does not end."""
    for last in (number, signal.SIGKILL):
        left = [pid for pid, start in family if start and born(pid) == start]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, last)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and any(start and born(pid) == start for pid, start in family):
            time.sleep(0.05)
