"""A cache opened for training: which keys it holds, and their entries."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apt_plugin.cache import shards
from apt_plugin.cache.keys import Key
from apt_plugin.cache.shards import Field, Shard
from apt_plugin.cache.stamp import read_stamp
from apt_plugin.errors import AptError

OPEN_SHARDS = 4096  # mapped at a time; mapping costs address space, not memory


class Cache:
    """The finished shards of a folder. Safe to fork and to pickle: a worker maps its own files."""

    def __init__(self, folder: Path):
        """Raises AptError: no cache there."""
        self.folder, self.stamp = Path(folder), read_stamp(Path(folder))
        self.fields = {name: Field(f["dtype"], tuple(f["tail"])) for name, f in self.stamp["fields"].items()}
        self.where: dict[Key, tuple[int, int]] = {}
        self.longest = dict.fromkeys(self.fields, 0)
        for path in sorted(self.folder.glob("shard-*.json")):
            number = shards.shard_of(path)
            if not shards.is_done(self.folder, number):
                continue
            shard = Shard(self.folder, number)
            self.where |= {key: (number, row) for row, key in enumerate(shard.keys)}
            for name in self.fields:
                if len(ends := shard.ends(name)):
                    self.longest[name] = max(self.longest[name], int(np.diff(ends, prepend=0).max()))
        self._open()

    def _open(self) -> None:
        self._shard = functools.lru_cache(maxsize=OPEN_SHARDS)(self._sound)

    def _sound(self, number: int) -> Shard:
        """A shard on its first reading in this process: training on changed features would go unnoticed."""
        try:
            shards.check_shard(self.folder, number)
        except AptError as error:
            raise AptError(
                f"The cache in {self.folder} was changed after it was written: {error}. Remove what is broken by "
                f"`apt-plugin cache verify {self.folder} --repair`, then run the same command again."
            ) from error
        return Shard(self.folder, number)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_shard"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.where)

    def __contains__(self, key: object) -> bool:
        return key in self.where

    @property
    def complete(self) -> bool:
        return len(self.where) >= int(self.stamp["entries"])

    @property
    def views(self) -> int:
        """Augmented views per frame; 1 without augmentation."""
        augmentation = self.stamp.get("augmentation")
        return int(augmentation["views"]) if isinstance(augmentation, dict) else 1

    def require(self, keys: Iterable[Key]) -> None:
        """Raises AptError: some of the keys are not there, with how many and what to do."""
        keys = list(keys)
        missing = [key for key in keys if key not in self.where]
        if missing:
            raise AptError(
                f"The cache in {self.folder} lacks {len(missing)} of the {len(keys)} entries that this run reads (e.g. "
                f"{missing[0].text()}). Finish it: apt-plugin cache build <the same command>; or train on the episodes "
                "that it holds."
            )

    def entry(self, key: Key, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The arrays of one entry, views into the file.

        Raises:
            AptError: not there, or its shard is not what was written.
        """
        if key not in self.where:
            self.require([key])
        number, row = self.where[key]
        return self._shard(number).entry(row, list(names or self.fields))

    def padded(self, key: Key) -> dict[str, np.ndarray]:
        """The arrays of one entry, each as long as the longest of the cache, and `<field>.length`: what stacks."""
        out: dict[str, np.ndarray] = {}
        for name, array in self.entry(key).items():
            whole = np.zeros((self.longest[name], *array.shape[1:]), array.dtype)
            whole[: len(array)] = array
            out[name], out[f"{name}.length"] = whole, np.asarray(len(array), np.int64)
        return out
