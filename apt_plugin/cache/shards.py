"""One shard: consecutive entries in a safetensors file, and the sidecar that says what its bytes must be.

    n entries of a shard

An entry's arrays are ragged on their first axis and lie end to end; `<field>/ends` says where each stops. Contents
depend on the entries alone, so that two processes that write one shard write the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apt_plugin import files, tensorfile
from apt_plugin.cache.keys import Key
from apt_plugin.errors import AptError

Entry = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Field:
    """One named array of every entry: [any length, *tail]."""

    dtype: str  # safetensors' name; BF16 travels as uint16
    tail: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "tail": list(self.tail)}


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:06d}.safetensors"


def sidecar_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:06d}.json"


def shard_of(path: Path) -> int:
    return int(path.name.removeprefix("shard-").partition(".")[0])


def is_done(folder: Path, shard: int) -> bool:
    """The sidecar is written last."""
    return sidecar_path(folder, shard).is_file() and shard_path(folder, shard).is_file()


def write_shard(
    folder: Path, shard: int, keys: Sequence[Key], entries: Sequence[Entry], fields: Mapping[str, Field]
) -> int:
    """Write a shard, then its sidecar; returns the bytes of the shard.

    Raises:
        AptError: an entry that does not have the fields the cache was begun with.
        OSError: the disk's own (full, gone).
    """
    words = np.frombuffer(b"".join(key.words.ljust(16, b"\0") for key in keys), np.uint8).reshape(len(keys), 16)
    tensors = {
        "key/frame": tensorfile.of_array(np.array([key.frame for key in keys], np.int64)),
        "key/view": tensorfile.of_array(np.array([key.view for key in keys], np.int32)),
        "key/words": tensorfile.of_array(words),
    }
    for name, field in fields.items():
        arrays = [_checked(entry, name, field) for entry in entries]
        joined = np.concatenate(arrays)
        tensors[name] = tensorfile.of_array(joined, field.dtype)
        tensors[f"{name}/ends"] = tensorfile.of_array(np.cumsum([len(array) for array in arrays], dtype=np.int64))
    path, beside = shard_path(folder, shard), sidecar_path(folder, shard)
    beside.unlink(missing_ok=True)  # of a shard that somebody deleted: it would vouch for bytes it has not seen
    tensorfile.write(path, tensors)
    size = path.stat().st_size
    files.write_json(beside, {"sha256": files.sha256_of(path), "bytes": size, "entries": len(keys)})
    return size


def check_shard(folder: Path, shard: int) -> None:
    """
    Raises:
        AptError: the shard is missing, cut, or not the bytes that its sidecar vouches for.
    """
    path, beside = shard_path(folder, shard), sidecar_path(folder, shard)
    stated = files.read_json(beside)
    files.check_safetensors(path)
    want = stated.get("sha256") if isinstance(stated, dict) else None
    if (seen := files.sha256_of(path)) != want:
        raise AptError(f"{path.name}: SHA-256 is {seen[:16]}..., {beside.name} says {str(want)[:16]}...")


def _checked(entry: Entry, name: str, field: Field) -> np.ndarray:
    if name not in entry:
        raise AptError(f"An entry lacks {name!r}; the cache was begun with it.")
    array = entry[name]
    if array.dtype != tensorfile.NUMPY[field.dtype] or tuple(array.shape[1:]) != tuple(field.tail):
        raise AptError(
            f"An entry's {name!r} is {array.dtype} [any, {', '.join(map(str, array.shape[1:]))}]; the cache was begun "
            f"with {field.dtype} [any, {', '.join(map(str, field.tail))}]."
        )
    return array


class Shard:
    """A shard opened for reading."""

    def __init__(self, folder: Path, shard: int):
        self.number, self.file = shard, tensorfile.TensorFile(shard_path(folder, shard))
        self._ends: dict[str, np.ndarray] = {}
        frames, views = self.file.array("key/frame"), self.file.array("key/view")
        words = self.file.array("key/words")
        self.keys = [
            Key(int(f), int(v), bytes(w) if w.any() else b"") for f, v, w in zip(frames, views, words, strict=True)
        ]

    def ends(self, name: str) -> np.ndarray:
        if name not in self._ends:
            self._ends[name] = self.file.array(f"{name}/ends")
        return self._ends[name]

    def entry(self, row: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The arrays of one entry, as views into the file."""
        out = {}
        for name in names:
            ends = self.ends(name)
            out[name] = self.file.array(name)[int(ends[row - 1]) if row else 0 : int(ends[row])]
        return out
