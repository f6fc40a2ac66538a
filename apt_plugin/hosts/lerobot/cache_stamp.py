"""What the bytes of a cache depend on in lerobot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from apt_plugin.backends.torch_bytes import as_bytes
from apt_plugin.cache.request import keyed_by_words
from apt_plugin.cache.stamp import digest, files_of, made_of
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.lerobot import cache_data, families
from apt_plugin.hosts.lerobot.groups import vlm_digest


def stamp_of(cfg: Any, policy: Any, dataset: Any, preprocessor: Any, kind: str) -> dict[str, Any]:
    """The stamp that a cache of this run must carry.

    Args:
        cfg: lerobot's TrainPipelineConfig; dataset: the host's data set, or a mix.
    """
    config, family = policy.config, families.of(policy.config.type)
    return made_of(
        policy=families.host_type(config.type),
        kind=kind,
        words=keyed_by_words(config.stage, kind),
        encoder=vlm_digest(policy),
        dtype=family.computes_in(policy),
        layers=family.layers(policy, kind),
        prefix=config.recipe.prefix,
        images={name: list(feature.shape) for name, feature in config.image_features.items()},
        processor=processor_settings(config, preprocessor, kind),
        augmentation=cache_data.check_choice(config, cache_data.augmentation_of(cfg, preprocessor)),
        dataset=[identity(source) for source in cache_data.sources_of(dataset)],
        host=f"lerobot {HOSTS['lerobot'].version()}",
        libraries=("transformers", "torch"),
    )


def processor_settings(config: Any, preprocessor: Any, kind: str) -> dict[str, Any]:
    """Settings and statistics of every step that reaches the VLM's input, by its registered name."""
    out: dict[str, Any] = {"resolution": list(getattr(config, "image_resolution", ()))}
    for place, step in enumerate(preprocessor.steps):
        name = type(step).__name__
        if name in ("DeviceProcessorStep", "AddBatchDimensionProcessorStep"):
            continue
        settings = {k: v for k, v in step.get_config().items() if k not in ("device", "float_dtype")}
        entry: dict[str, Any] = {"settings": digest(json.dumps(settings, sort_keys=True, default=repr))}
        if state := step.state_dict():
            parts = (n.encode() + as_bytes(t).numpy().tobytes() for n, t in sorted(state.items()) if "action" not in n)
            entry["statistics"] = digest(b"".join(parts))
        entry |= _loaded(step)
        out[f"{place}.{name}"] = entry
    return out


def _loaded(step: Any) -> dict[str, Any]:
    """What a step reads from files: a tokenizer's words, an image processor's numbers."""
    out: dict[str, Any] = {}
    processor = step.proc if hasattr(type(step), "proc") else None
    tokenizer = getattr(step, "_tokenizer", None) or getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        words = sorted(tokenizer.get_vocab().items())
        out["tokenizer"] = digest(json.dumps([words, getattr(processor, "chat_template", None)]))
    images = getattr(processor, "image_processor", None)
    if images is not None:
        numbers = json.loads(images.to_json_string())
        out["image_processor"] = {k: v for k, v in numbers.items() if k not in ("device", "_name_or_path")}
    return out


def identity(dataset: Any) -> dict[str, Any]:
    return files_of(Path(dataset.root), int(dataset.meta.total_frames))
