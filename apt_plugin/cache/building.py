"""Building a cache: by one process or several, stopped and resumed at any point, to the same bytes.

What an entry holds must depend on its key alone. Entries are computed in batches whose members the plan fixes, so
that rounding does not depend on who computes what either.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.cache import claims, shards
from apt_plugin.cache.keys import Key, order_of
from apt_plugin.cache.shards import Entry, Field, is_done, sidecar_path, write_shard
from apt_plugin.cache.stamp import SCHEMA, STAMP, Stamp, begin
from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)

SHARD_BYTES = 256 << 20
RESERVE = 64 << 20  # bytes of the disk that a cache leaves alone
# Several processes share the work by shards: even a small set is cut into some.
SHARDS_AT_LEAST = 16

Compute = Callable[[Sequence[Key]], Sequence[Entry]]


@dataclass(frozen=True)
class Worker:
    """Which of several processes this one is; alone by default. Decides where it begins, not what it may do."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Plan:
    """What is to be cached."""

    stamp: Stamp  # all that the bytes depend on; the layout is added here
    keys: list[Key]  # every entry, in the order in which they are stored
    fields: dict[str, Field]
    compute: Compute  # keys of one batch -> their entries, in order
    batch: int = 8  # entries per call; part of the stamp, because a batch's size moves the last bits
    wait: bool = True  # for other processes that still compute claimed shards
    report: Callable[[int, int], None] = field(default=lambda done, total: None)  # (entries done, entries in all)


@dataclass(frozen=True)
class Estimate:
    """What a cache will take, said before its first byte is written."""

    entries: int
    bytes_per_entry: float
    free: int  # bytes
    there: int = 0  # bytes of it already written

    @property
    def total(self) -> int:
        return math.ceil(self.entries * self.bytes_per_entry)

    @property
    def fits(self) -> bool:
        return self.total - self.there <= max(self.free - RESERVE, 0)

    def sentence(self) -> str:
        return (
            f"{self.entries} entries of {readable(self.bytes_per_entry)} take {readable(self.total)}"
            f"{f', {readable(self.there)} of it there' if self.there else ''}; {readable(self.free)} are free"
        )


def readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def bytes_of(entries: Sequence[Entry]) -> float:
    """Mean bytes that an entry takes on disk."""
    arrays = sum(array.nbytes + 8 for entry in entries for array in entry.values())
    return arrays / len(entries) + 28  # its key


def free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("shard-*.safetensors"))


def estimate(folder: Path, keys: Sequence[Key], sample: Sequence[Entry]) -> Estimate:
    """From entries that were computed and not written."""
    return Estimate(len(keys), bytes_of(sample), free_bytes(folder), written(folder))


def build(folder: Path, plan: Plan, worker: Worker | None = None) -> Stamp:
    """Compute and write what is missing, together with whoever else does.

    Raises:
        AptError: the cache there is another one (naming the field); the disk is too small, or full. What was written
            until then is whole, is used, and is where the next build goes on.
    """
    worker = worker or Worker()
    if not plan.keys:
        raise AptError("There is no frame to cache.")
    job = _complete(folder, plan)
    if job is None:
        job = _build(folder, plan, worker)
    else:
        logger.info("APT cache: %s is complete.", folder)
    # Printed, not logged: hosts silence the log of every process but the first.
    me = f"process {worker.rank} of {worker.world}"
    print(f"APT cache: {me} computed shards {job.computed} of {job.count}.", file=sys.stderr, flush=True)
    return job.stamp


def _complete(folder: Path, plan: Plan) -> _Job | None:
    """A cache that lacks nothing is only read: it needs neither room nor a folder that can be written.

    Raises:
        AptError: the cache there is another one.
    """
    if not (folder / STAMP).is_file():
        return None
    job = _Job(folder, plan, begin(folder, {**plan.stamp, **_layout(plan)}))
    return job if job.done() == job.count else None


def _build(folder: Path, plan: Plan, worker: Worker) -> _Job:
    files.make_folder(next(path for path in (folder, *folder.parents) if os.path.lexists(path)), "--apt.cache")
    files.remove_stale(folder / STAMP)
    sample = plan.compute(plan.keys[: plan.batch])
    guess = estimate(folder, plan.keys, sample)
    logger.info("APT cache: %s in %s.", guess.sentence(), folder)
    if not guess.fits:
        raise AptError(
            f"The cache does not fit {folder}: {guess.sentence()} (and {readable(RESERVE)} are left alone). Name a "
            "larger disk, fewer episodes, a narrower kind (--apt.cache_kind), or train without."
        )
    job = _Job(folder, plan, begin(folder, {**plan.stamp, **_layout(plan, guess.bytes_per_entry)}))
    try:
        job.run(worker)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AptError(
                f"The disk of {folder} is full after {job.done()} of {job.count} shards. They are whole and are used; "
                f"make room for {readable(guess.total - written(folder))} and run the same command again."
            ) from error
        raise
    claims.sweep(folder)
    return job


def _layout(plan: Plan, bytes_per_entry: float = 1.0) -> dict[str, Any]:
    small = math.ceil(len(plan.keys) / SHARDS_AT_LEAST)
    most = max(int(SHARD_BYTES / bytes_per_entry), 1)
    per_shard = math.ceil(min(small, most) / plan.batch) * plan.batch
    return {
        "schema": SCHEMA,
        "batch": plan.batch,
        "shard_entries": per_shard,
        "entries": len(plan.keys),
        "order": order_of(plan.keys),
        "fields": {name: spec.as_json() for name, spec in plan.fields.items()},
    }


class _Job:
    def __init__(self, folder: Path, plan: Plan, stamp: Stamp):
        self.folder, self.plan, self.stamp = folder, plan, stamp
        self.batch, self.per_shard = int(stamp["batch"]), int(stamp["shard_entries"])
        self.count = math.ceil(len(plan.keys) / self.per_shard)
        self.computed: list[int] = []  # shards that this process made

    def done(self) -> int:
        return sum(is_done(self.folder, shard) for shard in range(self.count))

    def run(self, worker: Worker) -> None:
        start = worker.rank * self.count // max(worker.world, 1)
        turn = [(start + i) % self.count for i in range(self.count)]
        pause = 0.05
        while missing := [shard for shard in turn if not is_done(self.folder, shard)]:
            took = [shard for shard in missing if self._shard(shard)]
            if took:
                pause = 0.05
                continue
            if not self.plan.wait:
                return
            time.sleep(pause)  # others compute the rest; if one of them dies, its claim becomes ours
            pause = min(pause * 1.5, 2.0)
        self.plan.report(len(self.plan.keys), len(self.plan.keys))

    def _shard(self, shard: int) -> bool:
        """Compute a shard unless somebody else does; whether this process did."""
        claim = claims.take(self.folder, shard)
        if claim is None:
            return False
        try:
            if is_done(self.folder, shard):
                return True
            keys = self.plan.keys[shard * self.per_shard : (shard + 1) * self.per_shard]
            entries: list[Entry] = []
            for first in range(0, len(keys), self.batch):
                entries += self.plan.compute(keys[first : first + self.batch])
                claim.alive()
            write_shard(self.folder, shard, keys, entries, self.plan.fields)
            self.computed.append(shard)
            self.plan.report(min(self.done() * self.per_shard, len(self.plan.keys)), len(self.plan.keys))
            return True
        finally:
            claim.release()


def verify(folder: Path) -> tuple[list[str], int]:
    """Compare every shard with its sidecar.

    Returns:
        (what is wrong, in words; shards that are sound)
    """
    problems, sound = [], 0
    for path in sorted(folder.glob("shard-*.json")):
        shard = shards.shard_of(path)
        try:
            shards.check_shard(folder, shard)
            sound += 1
        except AptError as error:
            problems.append(f"{path.stem}: {error}")
    return problems, sound


def discard(folder: Path, problems: Sequence[str]) -> int:
    """Remove the shards that `verify` found broken, so that the next build makes them anew."""
    names = {problem.partition(":")[0] for problem in problems}
    for name in names:
        shard = shards.shard_of(Path(name))
        for path in (sidecar_path(folder, shard), shards.shard_path(folder, shard)):
            with suppress(FileNotFoundError):
                os.unlink(path)
    return len(names)


def progress(prefix: str) -> Callable[[int, int], None]:
    """A progress bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        said = [-1]

        def log(done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth > said[0]:
                said[0] = tenth
                logger.info("APT cache: %s %d of %d entries.", prefix, done, total)

        return log
    bar = Progress(console=console)
    task: list[Any] = []

    def show(done: int, total: int) -> None:
        if not task:
            bar.start()
            task.append(bar.add_task(prefix, total=total))
        bar.update(task[0], completed=done)
        if done >= total:
            bar.stop()

    return show


def describe(stamp: Mapping[str, Any]) -> str:
    return f"{stamp.get('policy')} {stamp.get('kind')} ({stamp.get('key')}), {stamp.get('host')}"
