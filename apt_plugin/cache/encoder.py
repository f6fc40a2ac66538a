"""A run's frozen encoder as a source of cache entries: make what is missing, compare what is there, on every host.

A host gives the places of its frames and computes entries (`Source`); the two commands stand here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from apt_plugin.cache import building
from apt_plugin.cache.building import Plan, Worker, build
from apt_plugin.cache.keys import Key
from apt_plugin.cache.shards import Entry, Field
from apt_plugin.cache.stamp import STAMP, Stamp, check_stamp, read_stamp
from apt_plugin.cache.store import Cache
from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)

BATCH = 8  # entries per call
TRIED = 8  # batches, at most, that `compare` looks at
SAME = 1e-2  # how far a computer of another make may be off


class Source(Protocol):
    """One run's encoder, data and processors."""

    @property
    def folder(self) -> Path:
        """Where the cache lies."""
        ...

    @property
    def stage(self) -> int:
        """Whose features these are."""
        ...

    @property
    def places(self) -> Mapping[Key, Any]:
        """Every key that belongs into the cache, in its order, and where its frame is."""
        ...

    def stamp(self) -> Stamp:
        """All that the bytes depend on."""
        ...

    def fields(self) -> dict[str, Field]:
        """What an entry consists of."""
        ...

    def compute(self, keys: Sequence[Key]) -> Sequence[Entry]:
        """The entries of one batch, in order; what is drawn at random depends on a key alone (`seed_of`)."""
        ...


def seed_of(key: Key) -> int:
    """The seed of a frame's augmentation, in [0, 2^32): the same in every process and on every host."""
    return (key.frame * 0x9E3779B1 + key.view * 0x85EBCA6B) % (1 << 32)


def cheapest(folder: Path, kinds: Sequence[str], sample: Callable[[str], tuple[Sequence[Key], Sequence[Entry]]]) -> str:
    """The first kind that takes at most half of the free disk, else the last; one that was begun is kept.

    Args:
        sample: kind -> (all its keys, the entry of one of them).
    """
    if (folder / STAMP).is_file():
        return read_stamp(folder)["kind"]
    for kind in kinds:
        keys, entries = sample(kind)
        guess = building.estimate(folder, list(keys), entries)
        logger.info("APT cache: kind %s: %s.", kind, guess.sentence())
        if guess.total <= guess.free / 2:
            return kind
    return kinds[-1]


def make(source: Source, worker: Worker = Worker()) -> None:  # noqa: B008  a frozen value
    """Compute what is missing.

    Raises:
        AptError: nothing to cache, or see `building.build`.
    """
    if not source.places:
        raise AptError("No episode is longer than the action horizon: there is no frame to cache.")
    plan = Plan(source.stamp(), list(source.places), source.fields(), source.compute, BATCH)
    if worker.rank == 0:
        plan = replace(plan, report=building.progress(f"stage{source.stage}"))
    build(source.folder, plan, worker)


def compare(source: Source) -> str:
    """Stamp, hashes, and some entries computed again by the model that is there now; what was seen, in a sentence.

    Raises:
        AptError: everything that is wrong.
    """
    stamp = check_stamp(source.folder, source.stamp())
    problems, sound = building.verify(source.folder)
    if problems:
        raise AptError("; ".join(problems))
    there = Cache(source.folder)
    keys = [key for key in source.places if key in there]
    problems, worst, tried = again(there, keys, int(stamp["batch"]), source.compute)
    if worst > SAME:
        problems.append(f"entries computed again differ by up to {worst:.3g}: this is not the model of the cache.")
    if problems:
        raise AptError("; ".join(problems))
    return (
        f"APT cache: {sound} shards sound, {len(keys)} of {len(source.places)} entries there, {tried} computed again: "
        f"largest difference {worst:.3g}."
    )


def again(
    there: Cache, keys: Sequence[Key], batch: int, compute: Callable[[Sequence[Key]], Sequence[Entry]]
) -> tuple[list[str], float, int]:
    """Some entries computed again, in the batches in which they were computed.

    Args:
        keys: all that are there, in the cache's order; batch: entries per call, from the stamp.

    Returns:
        (what differs in shape, in words; largest difference of values; entries tried)
    """
    problems: list[str] = []
    worst, tried = 0.0, 0
    for first in range(0, len(keys), max(len(keys) // TRIED // batch, 1) * batch):
        group = keys[first : first + batch]
        for key, fresh in zip(group, compute(group), strict=True):
            stored = there.entry(key)
            for name, array in fresh.items():
                if stored[name].shape != array.shape:
                    problems.append(f"{key.text()}: {name} is {stored[name].shape} there, {array.shape} here.")
                    continue
                one, other = (numbers(part, there.fields[name].dtype) for part in (stored[name], array))
                worst = max(worst, float(np.abs(one - other).max(initial=0)))
            tried += 1
    return problems, worst, tried


def numbers(array: np.ndarray, dtype: str) -> np.ndarray:
    """Stored bytes as float64; BF16 lies in uint16.

    Args:
        dtype: safetensors' name.
    """
    if dtype == "BF16":
        return (array.astype("<u4") << 16).view("<f4").astype(np.float64)
    return array.astype(np.float64)
