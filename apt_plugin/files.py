"""Whole-or-absent files: a reader never meets half of one, even after a SIGKILL during the write."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from apt_plugin.errors import AptError


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable (POSIX wants the directory itself synced)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_of(path: Path) -> Path:
    """The name that a process writes under before it renames."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def remove_stale(path: Path) -> None:
    """Remove what processes of this machine that were killed while writing `path` left behind."""
    head = f".{path.name}.{socket.gethostname()}."
    for other in path.parent.glob(f"{glob.escape(head)}*.tmp"):
        pid = other.name.removeprefix(head).removesuffix(".tmp")
        if pid.isdecimal() and int(pid) != os.getpid() and not is_running(int(pid)):
            other.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as somebody else
        return True
    return True


def born(pid: int) -> str:
    """The kernel's start time of a process, which tells it from a later one of the same number; "" if unknown.

    A zombie is over: only its status waits to be read.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return ""


def set_aside(folder: Path) -> Path:
    """Rename a folder out of the way, so that nothing in it is lost; its new name."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.unfinished-{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def make_folder(folder: Path, named: str = "") -> None:
    """Make a folder, and all above it, that this process can write to.

    Args:
        named: the flag by which somebody named it.

    Raises:
        AptError: it cannot be: a file or a dangling link is in its place, or it is read-only.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK | os.X_OK) else "it cannot be written (read-only, or another user's)"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        why = _in_the_way(folder) or f"it cannot be written ({error.strerror})"
    if why:
        raise AptError(f"{named + ' is ' if named else ''}{folder}: {why}. Name a folder that can be written.")


def _in_the_way(folder: Path) -> str:
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            return f"{place} is a link to {place.readlink()}, which is not there"
        if place.exists():
            return "" if place.is_dir() else f"{place} is a file"
    return ""


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name whole or not at all: temporary name, fsync, rename.

    Nothing is left behind by an error, and what a SIGKILL left is removed by the next write of the same file.
    """
    make_folder(path.parent)
    remove_stale(path)
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary name, fsync, rename."""
    with writing(path) as file:
        file.write(data)


def write_new(path: Path, text: str) -> bool:
    """Write a file unless one of that name appears first; whether it was ours. Never replaces, never half."""
    make_folder(path.parent)
    remove_stale(path)
    temporary = temporary_of(path)
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file of ours.

    Raises:
        AptError: the file is missing, or is not JSON (a truncated or edited file).
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise AptError(f"{path} is missing.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AptError(
            f"{path} is not valid JSON ({error}): it was truncated or edited. Use an earlier checkpoint."
        ) from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces (weights may be many GB)."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def weight_files(folder: Path, name: str) -> list[Path]:
    """The files of a folder's weights: `name`, or the shards that `<name>.index.json` lists in its place.

    Raises:
        AptError: an index that lists no file of this folder.
    """
    index = folder / f"{name}.index.json"
    if (folder / name).is_file() or not index.is_file():
        return [folder / name]
    value = read_json(index)
    shards = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise AptError(f"{index} names no file of weights (no weight_map): it was edited or cut. Download it anew.")
    names = sorted({str(shard) for shard in shards.values()})
    if outside := [shard for shard in names if Path(shard).name != shard]:
        raise AptError(f"{index} names {outside[0]}, which is not beside it: shards lie in the index's own folder.")
    return [folder / shard for shard in names]


def numbered(folder: Path, prefix: str = "") -> list[tuple[int, Path]]:
    """(step, path) of what a run has saved in `folder` under `prefix` and a number, in order; whole or not."""
    found = ((path.name.removeprefix(prefix), path) for path in folder.glob(f"{prefix}*"))
    return sorted((int(number), path) for number, path in found if number.isdecimal())


def check_safetensors(path: Path, sha256: str | None = None) -> None:
    """Refuse a missing, truncated or tampered safetensors file before any tensor of it is used.

    Args:
        path: the file.
        sha256: what our metadata recorded when the file was written; None skips that comparison.

    Raises:
        AptError: with the sizes or digests that differ.
    """
    if not path.is_file():
        raise AptError(f"{path} is missing: this folder holds no weights.")
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise AptError(f"{path} is truncated: {size} bytes do not even hold its header ({length} bytes).")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise AptError(f"{path} has no readable safetensors header ({error}): not a weights file.") from error
    if size != expected:
        raise AptError(f"{path} is truncated or padded: {size} bytes, its header promises {expected}.")
    if sha256 is not None and (seen := sha256_of(path)) != sha256:
        raise AptError(
            f"{path} was changed after it was written: SHA-256 is {seen[:16]}..., apt.json recorded "
            f"{sha256[:16]}.... Restore the file or use another checkpoint."
        )
