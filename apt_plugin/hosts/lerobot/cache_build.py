"""`apt-plugin cache build` in lerobot: the host's training script up to its optimizer, then features instead of steps.

So data, policy and processors are the training's own, under accelerate too; only the steps differ.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from apt_plugin.backends import torch_ranks
from apt_plugin.backends.torch_cache import seed_draws
from apt_plugin.cache import Key, Worker, encoder, request
from apt_plugin.hosts.lerobot import cache, cache_data, families
from apt_plugin.hosts.lerobot.cache_stamp import stamp_of

logger = logging.getLogger(__name__)


class Finished(BaseException):
    """Ends the host's script where its training would begin. No Exception: nothing may catch it on the way."""


@dataclass
class Building:
    """What a building process collects while the host's script sets itself up."""

    mode: str = "build"  # build | verify
    settings: Any = None
    datasets: tuple[Any, ...] = ()
    preprocessor: Any = None

    def wrap(self, cfg: Any, train: Any, held_out: Any) -> tuple[Any, Any]:
        self.settings, self.datasets = cfg, (train, held_out)
        return train, held_out

    def checked(self, host: Any) -> Any:
        def make_pre_post_processors(*args: Any, **kwargs: Any) -> Any:
            made = host(*args, **kwargs)
            self.preprocessor = made[0]
            return made

        return make_pre_post_processors

    def instead_of_training(self, _host: Any) -> Any:
        def make_optimizer_and_scheduler(cfg: Any, policy: Any) -> Any:
            job = Encoder(cfg, policy, self.datasets, self.preprocessor)
            if self.mode == "build":
                encoder.make(job, Worker(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))))
            else:
                logger.info(encoder.compare(job))
            raise Finished

        return make_optimizer_and_scheduler


class Encoder:
    """One run's policy, data and processors as a source of cache entries."""

    def __init__(self, cfg: Any, policy: Any, datasets: Sequence[Any], preprocessor: Any):
        config = policy.config
        request.check_wanted(config.recipe, config.stage)
        cache.check_run(cfg)
        self.cfg, self.policy, self.preprocessor = cfg, policy.eval(), preprocessor
        self.folder = request.folder_of(config.recipe, config.stage)
        self.datasets = [dataset for dataset in datasets if dataset is not None]
        choice = cache_data.check_choice(config, cache_data.augmentation_of(cfg, preprocessor))
        self.views = request.views_of(choice)
        if not self.views:
            for dataset in self.datasets:
                for source in cache_data.sources_of(dataset):
                    source.clear_image_transforms()
        self.stage, self.family = config.stage, families.of(config.type)
        self.kind = self._kind()
        self.places = self._places(self.kind)

    # -- what to store ------------------------------------------------------------------------------------

    def _kind(self) -> str:
        asked, kinds = self.policy.config.recipe.cache_kind, self.family.rules.caches
        if asked != "auto":
            return asked
        return kinds[0] if len(kinds) == 1 else encoder.cheapest(self.folder, kinds, self._sample)

    def _sample(self, kind: str) -> tuple[list[Key], list[dict[str, np.ndarray]]]:
        self.places = self._places(kind)
        keys = list(self.places)
        return keys, self._encode(keys[:1], kind)[0]

    def _places(self, kind: str) -> dict[Key, tuple[Any, int]]:
        words = request.keyed_by_words(self.stage, kind)
        return cache_data.keys_of(self.datasets, words, max(self.views, 1))

    def compute(self, keys: Sequence[Key]) -> list[dict[str, np.ndarray]]:
        return self._encode(keys, self.kind)[0]

    def _encode(self, keys: Sequence[Key], kind: str) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
        batch = self._batch(keys)
        config = self.policy.config
        device = torch.device(config.device).type
        half = self.family.autocasts(config)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
            return self.family.encode(self.policy, batch, kind)

    def _batch(self, keys: Sequence[Key]) -> dict[str, Any]:
        """A processed batch, as lerobot's loop makes it; what it draws at random depends on the keys alone."""
        items = []
        for key in keys:
            dataset, row = self.places[key]
            if self.views:
                seed_draws(encoder.seed_of(key))
            items.append(dataset[row])
        if self.views:
            seed_draws(encoder.seed_of(keys[0]))
        batch = default_collate([{k: v for k, v in item.items() if v is not None} for item in items])
        for name in self.datasets[0].meta.camera_keys:
            if name in batch and batch[name].dtype == torch.uint8:
                batch[name] = batch[name].to(torch.float32) / 255.0
        with torch.set_grad_enabled(self.views > 0):  # GR00T's processor crops at random only where gradients are on
            return self.preprocessor(batch)

    def stamp(self) -> dict[str, Any]:
        return stamp_of(self.cfg, self.policy, self.datasets[0], self.preprocessor, self.kind)

    def fields(self) -> dict[str, Any]:
        return self._encode(list(self.places)[:1], self.kind)[1]


def main(mode: str, run: Any) -> None:
    """Run the host's training entry point with building in place of training; exits with 1 on problems."""
    from apt_plugin.hosts.lerobot import training

    job = Building(mode)
    training.install({"make_pre_post_processors": job.checked, "make_optimizer_and_scheduler": job.instead_of_training})
    cache.building = job
    try:
        run()
    except Finished:
        pass
    finally:
        cache.building = None
        training.uninstall()
        torch_ranks.end_group()
