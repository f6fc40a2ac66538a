"""A toy encoder whose entries depend on their key alone, and a process that builds with it.

python -m tests.cache.toy FOLDER ENTRIES RANK WORLD SECONDS_PER_BATCH LOG
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apt_plugin.cache import Field, Key, Plan, Worker, build, words_of

FIELDS = {"states": Field("BF16", (4,)), "image": Field("BOOL"), "place": Field("I32", (2, 2))}
STAMP = {"encoder": "abc", "processor": {"size": 224}, "host": "toy 1", "augmentation": "none"}


def entry(key: Key) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([key.frame, key.view, *key.words])
    s = int(rng.integers(0, 6))  # an empty one too
    return {
        "states": rng.integers(0, 1 << 16, (s, 4)).astype("<u2"),
        "image": rng.random(s) > 0.5,
        "place": rng.integers(-9, 9, (1, 2, 2)).astype("<i4"),
    }


def keys(count: int, views: int = 1, words: bool = False) -> list[Key]:
    return [Key(7 * i, v, words_of(f"do {i % 3}") if words else b"") for i in range(count) for v in range(views)]


def plan(count: int, seconds: float = 0.0, log: Path | None = None, **more) -> Plan:
    def compute(batch: Sequence[Key]) -> list[dict[str, np.ndarray]]:
        time.sleep(seconds)
        if log is not None:
            with open(log, "a") as file:
                file.write("".join(f"{os.getpid()} {key.frame}\n" for key in batch))
        return [entry(key) for key in batch]

    return Plan(**{"stamp": STAMP, "keys": keys(count), "fields": FIELDS, "compute": compute, "batch": 4} | more)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    folder, count, rank, world, seconds, log = sys.argv[1:]
    build(
        Path(folder), plan(int(count), float(seconds), Path(log) if log != "-" else None), Worker(int(rank), int(world))
    )
