"""One launcher per run folder; and, by the same means, which of several processes does what.

The lock belongs to an open file (flock), which children inherit: it is held while any of them lives, and the kernel
gives it back however they end. A file that a dead run left behind therefore locks nothing.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apt_plugin import files
from apt_plugin.errors import AptError

try:
    import fcntl
except ImportError:  # Windows: no lock there
    fcntl = None

logger = logging.getLogger(__name__)

STAGES = ("stage1", "stage2")
WAIT = 1.0  # seconds between two tries
_held: set[int] = set()
_kept: dict[Path, int] = {}  # until this process ends


class BusyError(AptError):
    """Another run has the lock."""


def handles() -> tuple[int, ...]:
    """The open files by which this process holds its locks, for its children to inherit."""
    return tuple(_held)


def path_of(run: Path) -> Path:
    """The lock of a run folder, beside it: the hosts refuse, or empty, a folder that has something in it."""
    run = Path(os.path.abspath(run))
    return run.with_name(f".{run.name}.apt-lock")


@contextmanager
def only_one(run: Path) -> Iterator[None]:
    """Hold the lock of a run folder for the length of a block.

    One rank of a distributed launch takes it for all.

    Raises:
        AptError: another run has it, with its machine and process number.
    """
    if fcntl is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    path = path_of(run)
    handle = _take(path, run)
    if handle is None:
        yield
        return
    with _released(handle, path):
        yield


@contextmanager
def taken(run: Path) -> Iterator[bool]:
    """Hold the lock of a folder for the length of a block, or say (False) that another process has it."""
    if fcntl is None:
        yield True
        return
    path = path_of(run)
    try:
        handle = _take(path, run)
    except BusyError:
        yield False
        return
    if handle is None:
        yield True
        return
    with _released(handle, path):
        yield True


def busy(run: Path) -> bool:
    """Whether another process has the lock of a folder. Looked at twice: somebody else may be looking just now."""
    for _ in range(2):
        with taken(run) as mine:
            if mine:
                return False
        time.sleep(WAIT / 10)
    return True


@contextmanager
def in_turn(run: Path, said: str) -> Iterator[None]:
    """Hold the lock of a folder for the length of a block, once whoever has it gave it back.

    Args:
        said: for the log, where it has to be waited for.
    """
    waits = False
    while True:
        with taken(run) as mine:
            if mine:
                yield
                return
        if not waits:
            logger.info(said)
        waits = True
        time.sleep(WAIT)


@contextmanager
def _released(handle: int, path: Path) -> Iterator[None]:
    _held.add(handle)
    try:
        yield
    finally:
        _held.discard(handle)
        path.unlink(missing_ok=True)
        os.close(handle)


def hold(run: Path) -> None:
    """Hold the lock of a run folder until this process ends: for a host's own command, in front of which no launcher
    stands. A stage's folder belongs to the launcher that has the folder around it, too.

    Raises:
        AptError: see `only_one`.
    """
    if fcntl is None or os.environ.get("RANK", "0") != "0":
        return
    for folder in (run.parent, run) if run.name in STAGES else (run,):
        path = path_of(folder)
        if path not in _kept and (handle := _take(path, folder)) is not None:
            _kept[path] = handle
            _held.add(handle)
            atexit.register(path.unlink, missing_ok=True)


def _take(path: Path, run: Path) -> int | None:
    assert fcntl is not None
    files.make_folder(path.parent)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 1000)
            os.close(handle)
            raise BusyError(
                f"{run} belongs to a run that is not over: {_words(owner)}. Wait for it or end it, or write another "
                "output folder."
            ) from None
        except OSError as error:  # a file system without locks
            os.close(handle)
            logger.warning("APT: %s cannot be locked (%s): nothing stops a second run in %s.", path, error, run)
            return None
        if _is_at(handle, path):
            break
        os.close(handle)  # its owner removed it in between
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
    return handle


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _words(owner: bytes) -> str:
    try:
        value = json.loads(owner)
        return f"process {int(value['pid'])} on {value['host']}, or a process that it started"
    except (ValueError, KeyError, TypeError):
        return "one that is starting just now"
