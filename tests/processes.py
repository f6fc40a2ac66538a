"""Processes that a test starts: each in a session of its own, and all that it started ends with it.

A test that runs into its time-out would otherwise leave a launcher and its training alive.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_started: list[subprocess.Popen] = []
HANG = 900  # seconds after which a process hangs: many times what a slow machine takes, so no measure of speed


def start(command: Sequence[str | Path], **options: Any) -> subprocess.Popen:
    """Popen at the head of a new session; it is ended when the test is over (tests/conftest.py), or by `end`."""
    process = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)
    _started.append(process)
    return process


def keep(process: subprocess.Popen) -> None:
    """Let it live on behind the test that started it; who keeps it ends it."""
    _started.remove(process)


def end(process: subprocess.Popen) -> None:
    """Kill a process and everything in its session; a no-op where nothing of it is left."""
    if process in _started:
        _started.remove(process)
    for pid in members(process.pid):  # torchrun and accelerate put their workers into groups of their own
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if process.poll() is None:
        process.kill()
    process.wait()
    last = time.monotonic() + 30
    while members(process.pid) and time.monotonic() < last:  # killed is not yet gone
        time.sleep(0.01)


def end_all() -> None:
    """End what a test, or the set-up of one, has started and not ended."""
    for process in list(_started):
        end(process)


def members(session: int) -> list[int]:
    """The live processes of a session, by /proc; none on a system without it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


@contextmanager
def running(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen]:
    """A process for the length of a block."""
    process = start(command, **options)
    try:
        yield process
    finally:
        end(process)


def run(
    command: Sequence[str | Path],
    *,
    timeout: float = HANG,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """A finished process with its output as text; what it left running is ended too.

    Raises:
        AssertionError: it hangs; with what it said, and where each Python process of it stood.
    """
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    watched = {**(os.environ if env is None else env), "PYTHONFAULTHANDLER": "1"}
    with running(command, env=watched, **piped) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as hung:
            raise AssertionError(f"{hung}\n{_last_words(process)}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _last_words(process: subprocess.Popen) -> str:
    """End a process that hangs; the end of its output, with the stack of every thread that Python knows of."""
    for pid in sorted(members(process.pid), reverse=True):  # the youngest first: a launcher would end its children
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGABRT)
            time.sleep(0.5)
    end(process)
    out, err = process.communicate()
    return f"{(out or '')[-6000:]}\n{(err or '')[-20000:]}"
