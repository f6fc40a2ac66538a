"""`apt-plugin cache build` in Isaac GR00T: the host's script up to its trainer, then features instead of steps.

So model, processor and data are the training's own, under torchrun too; only the steps differ.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from gr00t.data.dataset.sharded_single_step_dataset import extract_step_data
from gr00t.data.types import MessageType

from apt_plugin.backends import torch_groot_cache
from apt_plugin.backends.torch_cache import seed_draws
from apt_plugin.cache import Key, Worker, encoder, request
from apt_plugin.hosts.gr00t import cache
from apt_plugin.hosts.gr00t.cache_stamp import half, stamp_of


class Finished(BaseException):
    """Ends the host's script where its trainer would be made. No Exception: nothing may catch it on the way."""


class Encoder:
    """One run's model, data and processor as a source of cache entries."""

    def __init__(self, model: Any, processor: Any, config: Any, mixture: Any):
        recipe = model.apt_recipe
        cache.check_run(config.model)
        self.model, self.processor, self.config, self.datasets = model.eval(), processor, config, mixture.datasets
        self.folder, self.stage = request.folder_of(recipe, model.apt_stage), model.apt_stage
        self._stamp = stamp_of(model, processor, config, self.datasets)  # refuses where nobody chose about augmentation
        self.views = request.views_of(self._stamp["augmentation"])
        if not self.views:
            processor.train_image_transform = processor.eval_image_transform
        self.device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
        model.to(self.device)
        self.places = cache.keys_of(self.datasets, request.keyed_by_words(model.apt_stage), max(self.views, 1))
        self._episodes: dict[tuple[int, int], Any] = {}

    def compute(self, keys: Sequence[Key]) -> list[dict[str, np.ndarray]]:
        return self._encode(keys)[0]

    def _encode(self, keys: Sequence[Key]) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
        inputs = self.processor.collator([self._sample(key) for key in keys])["inputs"]
        backbone, _ = self.model.prepare_input(dict(inputs))
        halved = torch.autocast(self.device.partition(":")[0], torch.bfloat16) if half(self.config) else nullcontext()
        with torch.no_grad(), halved:
            return torch_groot_cache.encode(self.model, backbone)

    def _sample(self, key: Key) -> dict[str, Any]:
        """A processed step, as the host's data set makes it; what it draws at random depends on the key alone."""
        place, episode, step = self.places[key]
        dataset = self.datasets[place]
        if self.views:
            seed_draws(encoder.seed_of(key))
        content = extract_step_data(
            self._episode(place, episode), step, dataset.modality_configs, dataset.embodiment_tag, dataset.allow_padding
        )
        return self.processor([{"type": MessageType.EPISODE_STEP.value, "content": content}])

    def _episode(self, place: int, episode: int) -> Any:
        """Whole episodes are decoded, as the host's loader has it: the last two are kept."""
        if (place, episode) not in self._episodes:
            if len(self._episodes) > 1:
                self._episodes.pop(next(iter(self._episodes)))
            self._episodes[place, episode] = self.datasets[place].episode_loader[episode]
        return self._episodes[place, episode]

    def stamp(self) -> dict[str, Any]:
        return self._stamp

    def fields(self) -> dict[str, Any]:
        return self._encode(list(self.places)[:1])[1]


def instead_of_training(mode: str, model: Any, processor: Any, config: Any, mixture: Any) -> None:
    """
    Raises:
        Finished: done. AptError: verify found problems.
    """
    job = Encoder(model, processor, config, mixture)
    if mode == "build":
        encoder.make(job, Worker(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))))
    else:  # printed, not logged: the host silences the log while it sets itself up
        print(encoder.compare(job), file=sys.stderr, flush=True)
    raise Finished
