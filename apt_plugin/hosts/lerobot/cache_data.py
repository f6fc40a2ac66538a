"""lerobot's data sets behind a feature cache: their keys, and their frames without images.

B batch
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from apt_plugin.backends.torch_bytes import to_torch
from apt_plugin.cache import Cache, Key, settle_views, words_of
from apt_plugin.hosts.lerobot import mixing

PREFIX = "observation.apt_cache."  # the host's processors carry unknown observations through


# -- augmentation -----------------------------------------------------------------------------------------


def augmentation_of(cfg: Any, preprocessor: Any = None) -> dict[str, Any] | None:
    """What the host randomises in the images, in words; None when nothing."""
    found: dict[str, Any] = {}
    transforms = cfg.dataset.image_transforms
    if transforms.enable:
        found["image_transforms"] = repr(transforms)
    for step in getattr(preprocessor, "steps", ()):
        if getattr(step, "use_albumentations", False) and getattr(step, "training", False):
            found["random_crop"] = repr((step.image_crop_size, step.crop_fraction))
    return found or None


def check_choice(config: Any, found: dict[str, Any] | None) -> Any:
    """The stamp's `augmentation`: "none", or the number of views and what they vary.

    Raises:
        AptError: the host augments and nobody chose; or views were asked for and the host augments nothing.
    """
    return settle_views(config.recipe.cache_views, found, "--dataset.image_transforms.enable=true")


# -- the data ---------------------------------------------------------------------------------------------


def sources_of(dataset: Any) -> list[Any]:
    return list(dataset.sources) if isinstance(dataset, mixing.MixedDataset) else [dataset]


def rows_of(dataset: Any) -> list[tuple[int, int, str]]:
    """(row, frame number, task) of every row, from the table alone: no image is touched."""
    if isinstance(dataset, mixing.MixedDataset):
        tables = [rows_of(source) for source in dataset.sources]
        offset, out = dataset.sources[0].meta.total_frames, []
        for source, first, last in dataset.plan:
            for _, frame, task in tables[source][first:last]:
                out.append((len(out), frame + offset if source else frame, "" if source else task))
        return out
    table = dataset.hf_dataset.data
    frames, tasks = (table.column(name).to_numpy() for name in ("index", "task_index"))
    names = [str(name) for name in dataset.meta.tasks.index]
    return [(row, int(f), names[int(t)]) for row, (f, t) in enumerate(zip(frames, tasks, strict=True))]


def keys_of(datasets: Iterable[Any], words: bool, views: int = 1) -> dict[Key, tuple[Any, int]]:
    """Every key of these data sets, in their order -> (data set, row) that gives it."""
    out: dict[Key, tuple[Any, int]] = {}
    for dataset in datasets:
        if dataset is not None:
            for row, frame, task in rows_of(dataset):
                for view in range(views):
                    out.setdefault(Key(frame, view, words_of(task) if words else b""), (dataset, row))
    return out


def without_images(dataset: Any) -> None:
    """Make a LeRobotDataset leave its cameras out: their columns are not read, its videos not decoded."""
    for source in sources_of(dataset):
        reader = source._ensure_reader()
        cameras = [name for name in reader.hf_dataset.column_names if name in source.meta.camera_keys]
        reader.hf_dataset = reader.hf_dataset.remove_columns(cameras)
        if reader.delta_indices:  # a policy may ask for moments of its observations, too
            named = source.meta.camera_keys
            reader.delta_indices = {k: v for k, v in reader.delta_indices.items() if k not in named}
        reader._query_videos = lambda *_: {}
        source.clear_image_transforms()


class CachedDataset(torch.utils.data.Dataset):
    """A data set of the host with cached features in place of images. All else is the data set's own."""

    def __init__(self, dataset: Any, cache: Cache, words: bool):
        self.dataset, self.cache, self.words = dataset, cache, words
        cache.require(keys_of([dataset], words, cache.views))
        without_images(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # pickling asks before __init__ has run
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = dict(self.dataset[index])
        view = int(torch.randint(self.cache.views, ())) if self.cache.views > 1 else 0
        words = words_of(str(item.get("task", ""))) if self.words else b""
        for name, array in self.cache.padded(Key(int(item["index"]), view, words)).items():
            field = self.cache.fields.get(name)
            item[PREFIX + name] = to_torch(array, field.dtype if field else "I64")
        return item


def fields_of(batch: dict[str, Any]) -> dict[str, Tensor] | None:
    """The cached arrays of a batch, each [B, longest of the batch, *tail], with `<field>.length` [B]; None without."""
    out = {name.removeprefix(PREFIX): value for name, value in batch.items() if name.startswith(PREFIX)}
    for name in [n for n in out if not n.endswith(".length")]:
        out[name] = out[name][:, : int(out[f"{name}.length"].max())]
    return out or None
