"""Training from a feature cache in Isaac GR00T: frames by number, steps without images, features in the collator.

The host decodes a whole episode to deal its steps to shards. Here the same shards are dealt from the table alone, in
the host's own order, each sample with a key; the collator looks the keys up.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gr00t.data.dataset.lerobot_episode_loader import LANG_KEYS
from gr00t.data.dataset.sharded_single_step_dataset import ShardedSingleStepDataset

from apt_plugin.backends.torch_cache import PREFIX, collate
from apt_plugin.cache import Cache, Key, words_of
from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)

KEY = "apt_key"  # of a sample, taken out again by the collator
SEEN = ("video", "mask")  # modalities that are images


def check_run(model: Any) -> None:
    """Raises AptError: what a cache cannot serve here."""
    if model.load_bf16:
        raise AptError(
            "model.load_bf16 rounds the VLM while it is loaded, which a cache's encoder hash does not: drop it."
        )


# -- frames -----------------------------------------------------------------------------------------------


def first_frames(datasets: Sequence[Any]) -> list[np.ndarray]:
    """Per data set the number of every episode's first frame: episodes end to end, data sets end to end."""
    out, total = [], 0
    for dataset in datasets:
        lengths = np.asarray(dataset.episode_loader.episode_lengths)
        out.append(total + np.concatenate([[0], np.cumsum(lengths)[:-1]]))
        total += int(lengths.sum())
    return out


def language_of(loader: Any) -> str:
    """The column that `extract_step_data` reads the instruction from."""
    return f"language.{loader.modality_configs['language'].modality_keys[0]}"


def without_images(loader: Any) -> Any:
    """The host's episode loader on the table alone: no video is opened."""
    blind = copy.copy(loader)
    blind.modality_configs = {k: v for k, v in loader.modality_configs.items() if k not in SEEN}
    return blind


def keys_of(datasets: Sequence[Any], words: bool, views: int = 1) -> dict[Key, tuple[int, int, int]]:
    """Every step that the host trains on -> (data set, episode, step), in the order of the data.

    Raises:
        AptError: Stage 2 on instructions that the host draws at random, so that a step has no words of its own.
    """
    out: dict[Key, tuple[int, int, int]] = {}
    for place, (dataset, first) in enumerate(zip(datasets, first_frames(datasets), strict=True)):
        loader = without_images(dataset.episode_loader)
        if words:
            check_one_instruction(loader)
        for episode in range(len(loader)):
            steps = dataset.get_effective_episode_length(episode)
            texts = loader[episode][language_of(loader)].tolist() if words and steps else [""] * steps
            for step in range(steps):
                for view in range(views):
                    key = Key(int(first[episode]) + step, view, words_of(texts[step]) if words else b"")
                    out[key] = (place, episode, step)
    return out


def check_one_instruction(loader: Any) -> None:
    """Raises AptError: see `keys_of`."""
    key = language_of(loader).removeprefix("language.")
    if key not in LANG_KEYS:
        return
    if key != "task" or any(len(set(meta.get("tasks") or [""])) > 1 for meta in loader.episodes_metadata):
        raise AptError(
            f"{loader.dataset_path} has several instructions per episode ({key}), and the host draws one at random "
            "whenever it loads the episode: a cache keyed by frame and instruction would lack some. Train Stage 2 "
            "without --apt.cache, or write one instruction per frame (an annotation column)."
        )


# -- samples ----------------------------------------------------------------------------------------------


def no_vlm_inputs(**_kwargs: Any) -> dict[str, Any]:
    """In place of the processor's `_get_vlm_inputs`: images and prompt are in the cache."""
    return {}


class CachedSteps(ShardedSingleStepDataset):
    """The host's data set with keys in place of images; shards, their order and all else are the host's."""

    apt_first: np.ndarray
    apt_words: bool
    apt_views: int
    apt_turns: dict[int, int]

    def get_shard(self, idx: int) -> list:
        turn = self.apt_turns[idx] = self.apt_turns.get(idx, -1) + 1  # of a shard: another view each time it comes
        random = np.random.default_rng([self.seed, idx, turn])
        column, out = language_of(self.episode_loader), []
        for episode, steps in self.sharded_episodes[idx]:
            table = self.episode_loader[episode]
            texts = table[column].tolist() if self.apt_words else None
            for step in steps:
                view = int(random.integers(self.apt_views)) if self.apt_views > 1 else 0
                words = b"" if texts is None else words_of(texts[step])
                key = Key(int(self.apt_first[episode]) + int(step), view, words)
                out.append(self.get_datapoint(table, step) | {KEY: key})
        return out


class CachedCollator:
    """The host's collator, and the features of the batch."""

    def __init__(self, host: Any, cache: Cache):
        self.host, self.cache = host, cache

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> Any:
        keys = [sample[KEY] for sample in samples]
        batch = self.host([{k: v for k, v in sample.items() if k != KEY} for sample in samples])
        batch["inputs"] |= {PREFIX + name: value for name, value in collate(self.cache, keys).items()}
        return batch


def wrap(mixture: Any, processor: Any, cache: Cache, words: bool) -> None:
    """Make the host's data set read its samples without images.

    Raises:
        AptError: the cache lacks steps.
    """
    cache.require(keys_of(mixture.datasets, words, cache.views))
    for dataset, first in zip(mixture.datasets, first_frames(mixture.datasets), strict=True):
        dataset.episode_loader = without_images(dataset.episode_loader)
        dataset.modality_configs = {k: v for k, v in dataset.modality_configs.items() if k not in SEEN}
        dataset.__class__ = CachedSteps
        dataset.apt_first, dataset.apt_words, dataset.apt_views = first, words, cache.views
        dataset.apt_turns = {}
    processor._get_vlm_inputs = no_vlm_inputs
    logger.info("APT: %d steps' features from %s; no video is opened, no VLM is in memory.", len(cache), cache.folder)
