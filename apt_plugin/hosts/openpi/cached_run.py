"""A training run from a cache: the host's loader gives features, the train state holds no VLM.

The host's script makes the data, then the state. The cache is opened with the data and compared with what runs as soon
as the VLM's hash is known, before the first step.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from openpi.training import data_loader

from apt_plugin.cache import Cache, check_stamp, request
from apt_plugin.hosts.openpi import cached
from apt_plugin.hosts.openpi.cached_data import CachedDataset
from apt_plugin.hosts.openpi.cached_stamp import stamp_of
from apt_plugin.hosts.openpi.cached_state import Outline, replicated
from apt_plugin.run.replace import Replacements

logger = logging.getLogger(__name__)


@dataclass
class Active:
    """The cache that this process trains from."""

    config: Any  # the derived TrainConfig
    cache: Cache
    seen: dict[str, Any] = field(default_factory=dict)  # the host's data config and data set, once made

    @property
    def kind(self) -> str:
        return self.cache.stamp["kind"]

    def __post_init__(self) -> None:
        self.outline = Outline(self.config, self.kind)

    def install(self, replacements: Replacements) -> None:
        """Rebind the host's loader classes for the life of the process."""
        torch_loader, host = data_loader.TorchDataLoader, data_loader.DataLoaderImpl
        words = request.keyed_by_words(self.config.model.apt_stage, self.kind)

        def from_cache(dataset: Any, *args: Any, **more: Any) -> Any:
            self.seen["dataset"] = dataset
            return torch_loader(CachedDataset(dataset, self.cache, words), *args, **more)

        def loader(data: Any, batches: Any) -> Any:
            self.seen["data"] = data
            return CachedLoader(data, batches)

        class CachedLoader(host):  # type: ignore[misc, valid-type]
            def __iter__(self) -> Any:
                for batch in self._data_loader:
                    yield cached.of_batch(batch), batch["actions"]

        replacements.set(data_loader, "TorchDataLoader", from_cache)
        replacements.set(data_loader, "DataLoaderImpl", loader)
        logger.info("APT: %d entries from %s; no image is decoded.", len(self.cache), self.cache.folder)

    def check(self, encoder: str) -> None:
        """Raises AptError: the cache was made for another VLM, other data or transforms (naming each field)."""
        want = stamp_of(self.config, self.seen["data"], self.seen["dataset"], encoder, self.kind)
        if (asked := self.config.model.apt_recipe.cache_kind) != "auto":
            want["kind"] = asked
        check_stamp(self.cache.folder, want)

    def begin(self, state: Any, sharding: Any, mesh: Any, encoder: str | None) -> tuple[Any, Any]:
        """The host's fresh state without the VLM (shapes of a state to be restored stay whole), and its sharding."""
        if encoder is not None:
            self.check(encoder)
            state = self.outline.drop(state)
        return state, replicated(sharding, self.kind, mesh)

    def resumed(self, state: Any, encoder: str) -> Any:
        self.check(encoder)
        return self.outline.drop(state)


def open_cache(config: Any) -> Active | None:
    """The cache of a stage that asks for one and trains no part of it.

    Raises:
        AptError: no cache there.
    """
    recipe, stage = config.model.apt_recipe, config.model.apt_stage
    request.say_unused(recipe, stage)
    return Active(config, Cache(request.folder_of(recipe, stage))) if request.wanted(recipe, stage) else None
