"""Data order of a resumed run.

Both trainers of openpi make a loader that begins its order anew in every process: behind a resume, the frames of the
first steps would be read again, and the last ones never. Here the loader goes on where the run stopped.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from apt_plugin.hosts.openpi.checkpoints import last_whole
from apt_plugin.run.replace import Replacements
from apt_plugin.stages import read_record

logger = logging.getLogger(__name__)


class Behind(Sampler):
    """A sampler whose first pass begins behind `places` of its frames, with the random numbers that it had there."""

    def __init__(self, host: Any, places: int, generator: torch.Generator | None):
        self.host, self.places, self.generator = host, places, generator
        self.state = None if generator is None else generator.get_state()

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[Any]:
        if self.generator is not None and self.state is not None:
            self.generator.set_state(self.state)  # the loader draws a seed for its workers before the first pass
        places, self.places, self.state = self.places, 0, None
        return itertools.islice(iter(self.host), places, None)


def skip(loader: DataLoader, batches: int) -> None:
    """Put a loader behind its first `batches`; no frame is read for it."""
    passes, rest = divmod(batches, len(loader))
    inner: Any = loader.batch_sampler
    for number in range(passes + 1):
        if loader.generator is not None and (number == 0 or not loader.persistent_workers):
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)  # the seed of a pass's workers
        if number < passes:
            deque(inner, maxlen=0)
    inner.sampler = Behind(inner.sampler, rest * inner.batch_size, loader.generator)


def install(config: Any, replacements: Replacements) -> None:
    """Rebind the host's `create_data_loader` in a process that goes on with a run."""
    from openpi.training import data_loader

    last = last_whole(config.checkpoint_dir) if config.resume else None
    if last is None:
        return
    steps = read_record(last / "assets").steps

    def wrap(host: Any) -> Any:
        @functools.wraps(host)
        def create_data_loader(*args: Any, **more: Any) -> Any:
            made = host(*args, **more)
            loader = getattr(made._data_loader, "torch_loader", None)
            if loader is None:
                logger.warning("APT: an RLDS stream has no place to go on at: it begins anew behind a resume.")
            else:
                skip(loader, steps)
                logger.info("APT: the data go on behind the %d batches of the steps so far.", steps)
            return made

        return create_data_loader

    replacements.wrap(data_loader, "create_data_loader", wrap)
