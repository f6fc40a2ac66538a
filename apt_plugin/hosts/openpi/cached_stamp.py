"""What the bytes of a cache depend on in openpi, and the choice about its image augmentation."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from openpi.models import model as _model

from apt_plugin.cache import settle_views
from apt_plugin.cache.request import keyed_by_words
from apt_plugin.cache.stamp import digest, files_of, made_of
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.openpi.cached_data import raw_of, sources
from apt_plugin.hosts.openpi.derive import family_of
from apt_plugin.hosts.openpi.prompt import AptTokenizePrompt

AUGMENTED = "openpi's random crop, rotation and colours (models/model.py)"


def augmentation(model: Any) -> Any:
    """The stamp's `augmentation`: "none", or the number of views and what they vary.

    Raises:
        AptError: nobody chose, and openpi's trainer augments always.
    """
    return settle_views(model.apt_recipe.cache_views, AUGMENTED)


def stamp_of(config: Any, data: Any, dataset: Any, encoder: str, kind: str) -> dict[str, Any]:
    """The stamp that a cache of this run must carry.

    Args:
        data: the host's DataConfig; dataset: its transformed data set, or a mix; encoder: the VLM's digest.
    """
    model = config.model
    return made_of(
        policy=family_of(model),
        kind=kind,
        words=keyed_by_words(model.apt_stage, kind),
        encoder=encoder,
        dtype=model.dtype,
        layers="keys and values of all" if kind == "kv" else "vision tower and projector",
        prefix=model.apt_recipe.prefix,
        images={"cameras": list(_model.IMAGE_KEYS), "resolution": list(_model.IMAGE_RESOLUTION)},
        processor=_processor(model, data),
        augmentation=augmentation(model),
        dataset=[_identity(raw_of(source)[0]) for source in sources(dataset)],
        host=f"openpi {HOSTS['openpi'].version()}",
        libraries=("jax",),
    )


def _processor(model: Any, data: Any) -> dict[str, Any]:
    """The host's transforms, and what they read from files. Statistics count where the prompt holds the state."""
    groups = {"repack": data.repack_transforms, "data": data.data_transforms, "model": data.model_transforms}
    out: dict[str, Any] = {}
    for group, members in groups.items():
        for place, transform in enumerate(members.inputs):
            shown = re.sub(r" at 0x\w+", "", repr(transform))
            out[f"{group}.{place}.{type(transform).__name__}"] = digest(shown)
            if isinstance(transform, AptTokenizePrompt):
                words = transform.tokenizer._tokenizer.serialized_model_proto()
                out[f"{group}.{place}.tokenizer"] = digest(words)
    if model.discrete_state_input and data.norm_stats:
        state = dataclasses.asdict(data.norm_stats["state"])
        numbers = {name: None if value is None else [float(x) for x in value] for name, value in state.items()}
        out["state"] = digest(json.dumps([numbers, data.use_quantile_norm], sort_keys=True))
    return out


def _identity(raw: Any) -> dict[str, Any]:
    """A data set by its frames, its tasks, and the names and sizes of its files: a copy is the same, an edit is not."""
    root = Path(raw.root)
    tasks = b"".join(path.read_bytes() for path in sorted((root / "meta").glob("tasks.*")))
    found = files_of(root, int(raw.meta.total_frames), ("data", "videos", "images"))
    return found | {"tasks": digest(tasks)}
