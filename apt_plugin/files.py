"""Whole-or-absent files: a reader never meets half of one, even after a SIGKILL during the write."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable (POSIX wants the directory itself synced)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_folder(path.parent)


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
