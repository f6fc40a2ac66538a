"""Who computes which shard: a lock file per shard, made with O_EXCL, that outlives no process.

A claim saves duplicate work; it is not what keeps the cache whole. Two writers of one shard write the same bytes
under names of their own and rename them into place, so a claim that was lost or taken twice costs time only.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from apt_plugin.files import born, is_running

STALE = 600.0  # seconds without a sign of life after which a claim of another machine is taken over


def _me() -> dict[str, object]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": born(os.getpid())}


class Claim:
    """A shard that this process computes."""

    def __init__(self, path: Path):
        self.path = path

    def alive(self) -> None:
        """A sign of life, for processes of other machines."""
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        with suppress(OSError):
            if json.loads(self.path.read_text()) == _me():
                self.path.unlink()


def lock_path(folder: Path, shard: int) -> Path:
    return folder / f".shard-{shard:06d}.lock"


def take(folder: Path, shard: int) -> Claim | None:
    """Claim a shard; None when a living process has it."""
    return take_path(lock_path(folder, shard))


def take_path(path: Path) -> Claim | None:
    """Claim whatever `path` stands for; None when a living process has it."""
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if not remove_stale(path):
                return None
            continue
        with os.fdopen(handle, "w") as file:
            json.dump(_me(), file)
        return Claim(path)
    return None


def remove_stale(path: Path) -> bool:
    """Remove a claim whose process is gone; whether the way is free."""
    try:
        seen, age = path.read_text(), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True
    if not _is_stale(seen, age):
        return False
    aside = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    if aside.read_text() != seen:  # somebody else took it over in between: give it back
        with suppress(OSError):
            os.link(aside, path)
        aside.unlink()
        return False
    aside.unlink()
    return True


def _is_stale(text: str, age: float) -> bool:
    try:
        owner = json.loads(text)
        host, pid, start = owner["host"], int(owner["pid"]), owner["born"]
    except (ValueError, KeyError, TypeError):
        return age > 5  # killed between making the file and writing into it
    if host != socket.gethostname():
        return age > STALE
    if not is_running(pid):
        return True
    return bool(start) and born(pid) != start


def sweep(folder: Path) -> None:
    """Remove the claims of processes that are gone (a finished build leaves none)."""
    for path in folder.glob(".shard-*.lock*"):
        remove_stale(path)
