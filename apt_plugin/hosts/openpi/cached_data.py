"""The data of a cached run: the host's own samples without their images, cached features beside them.

A frame is known by its number in its LeRobot data set; in a mix, unlabelled frames count on from the labelled ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import openpi.transforms as transforms
import torch

from apt_plugin.cache import Cache, Key, words_of
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.mix import Mixed
from apt_plugin.hosts.openpi.names import INSTRUCTION_FIELD


def sources(dataset: Any) -> list[Any]:
    """The transformed data sets of a run: one, or two in a mix."""
    return [dataset.labelled, dataset.blank] if isinstance(dataset, Mixed) else [dataset]


def raw_of(dataset: Any) -> tuple[Any, Any]:
    """(LeRobotDataset, the transformed set around it) of one source.

    Raises:
        AptError: something else, whose frames have no numbers.
    """
    around = None
    while not hasattr(dataset, "hf_dataset"):
        if not hasattr(dataset, "_dataset"):
            raise AptError(
                f"A cache finds frames by number in a LeRobot data set; this config reads {type(dataset).__name__} "
                "(RLDS streams, fake data). Train without --apt.cache."
            )
        around, dataset = dataset, dataset._dataset
    return dataset, around


def _no_videos(*_: Any) -> dict[str, Any]:
    return {}


class Pixels:
    """A LeRobotDataset that reads no image; one pixel stands for each, so that the host's transforms still run."""

    def __init__(self, raw: Any):
        first = raw[0]
        self.pixels = {name: _corner(first[name]) for name in raw.meta.camera_keys}
        stored = [name for name in raw.hf_dataset.column_names if name in self.pixels]
        raw.hf_dataset = raw.hf_dataset.remove_columns(stored)
        raw._query_videos = _no_videos
        self._dataset = raw

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        return {**self._dataset[index], **self.pixels}


def _corner(image: Any) -> Any:
    """[3, H, W] -> [3, 1, 1]; [H, W, 3] -> [1, 1, 3]"""
    return image[:, :1, :1] if image.shape[0] == 3 else image[:1, :1]


def without_images(source: Any) -> None:
    """Make one source of a run read no images, in place."""
    raw, around = raw_of(source)
    around._dataset = Pixels(raw)
    kept = [t for t in source._transform.transforms if not isinstance(t, transforms.ResizeImages)]
    source._transform = transforms.compose(kept)


def words_in(sample: dict[str, Any]) -> bytes:
    """The instruction of a transformed sample, as the VLM reads it: its tokens."""
    tokens = np.asarray(sample["tokenized_prompt"])[np.asarray(sample[INSTRUCTION_FIELD])]
    return words_of(" ".join(map(str, tokens.tolist())))


def frames(dataset: Any) -> Iterator[tuple[int, Any, int]]:
    """(frame number, source, its own index) of every frame, in the data's order."""
    number = 0
    for source in sources(dataset):
        for index in range(len(source)):
            yield number, source, index
            number += 1


class CachedDataset:
    """At module level and without closures: data workers unpickle it."""

    def __init__(self, dataset: Any, cache: Cache, words: bool):
        """Raises AptError: the cache lacks frames of this data."""
        self.dataset, self.cache, self.words = dataset, cache, words
        if not words:
            cache.require(Key(number, view) for number, _, _ in frames(dataset) for view in range(cache.views))
        elif not cache.complete:
            raise AptError(f"The cache in {cache.folder} is unfinished. Finish it: apt-plugin cache build <this run>.")
        for source in sources(dataset):
            without_images(source)

    def __len__(self) -> int:
        return len(self.dataset)

    def _frame(self, index: int) -> int:
        if not isinstance(self.dataset, Mixed):
            return index
        part, own = self.dataset.place(index)
        return own if part is self.dataset.labelled else len(self.dataset.labelled) + own

    def __getitem__(self, index: Any) -> dict[str, Any]:
        index = index.__index__()
        sample = self.dataset[index]
        view = int(torch.randint(self.cache.views, ())) if self.cache.views > 1 else 0
        key = Key(self._frame(index), view, words_in(sample) if self.words else b"")
        return {**sample, "apt_cache": {name: self._array(name, a) for name, a in self.cache.padded(key).items()}}

    def _array(self, name: str, array: np.ndarray) -> np.ndarray:
        field = self.cache.fields.get(name)
        if field is not None and field.dtype == "BF16":
            return array.view(ml_dtypes.bfloat16)
        return array.astype(np.int32) if array.dtype == np.int64 else array
