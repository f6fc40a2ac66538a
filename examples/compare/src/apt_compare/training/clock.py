"""Seconds by phase, and waiting for whoever makes what several runs share."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apt_plugin.cache import claims


@dataclass
class Clock:
    """Wall and CPU seconds by phase."""

    wall: dict[str, float] = dataclasses.field(default_factory=dict)
    cpu: dict[str, float] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[phase] = self.wall.get(phase, 0.0) + time.perf_counter() - wall
        self.cpu[phase] = self.cpu.get(phase, 0.0) + time.process_time() - cpu


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Wait for whoever makes `folder`, so that two processes do not both spend minutes on it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    while (claim := claims.take_path(path)) is None:
        time.sleep(1.0)
    try:
        yield
    finally:
        claim.release()
