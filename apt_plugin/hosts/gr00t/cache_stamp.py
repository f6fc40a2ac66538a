"""What the bytes of a cache depend on in Isaac GR00T."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gr00t.model.gr00t_n1d7 import image_augmentations, processing_gr00t_n1d7
from gr00t.model.modules import qwen3_backbone

from apt_plugin.cache import request, settle_views
from apt_plugin.cache.stamp import digest, files_of, made_of, plain
from apt_plugin.hosts.gr00t import cache

# Settings of the host's processor that reach the VLM's input.
PREPARED = (
    "image_crop_size", "image_target_size", "shortest_image_edge", "crop_fraction", "letter_box_transform",
    "use_albumentations", "model_name", "model_type",
)  # fmt: skip


def stamp_of(model: Any, processor: Any, config: Any, datasets: Sequence[Any]) -> dict[str, Any]:
    """The stamp that a cache of this run must carry.

    Args:
        model: ours; config: the host's whole config; datasets: the host's data sets, in the run's order.
    """
    words = request.keyed_by_words(model.apt_stage)
    return made_of(
        policy="Gr00tN1d7",
        kind="states",
        words=words,
        encoder=model.apt_vlm_digest(),
        dtype=f"{'bfloat16' if half(config) else 'float32'} over float32",
        layers=model.apt_state_layers(),
        prefix=model.apt_recipe.prefix,
        processor=processor_settings(processor, datasets, words),
        augmentation=settle_views(model.apt_recipe.cache_views, augmentation_of(processor), HOW),
        dataset=[
            files_of(Path(d.episode_loader.dataset_path), int(sum(d.episode_loader.episode_lengths))) for d in datasets
        ],
        host=f"gr00t N1.7, sources {sources()[:12]}",
        libraries=("transformers", "torch"),
    )


HOW = "--color-jitter-params brightness 0.3"


def half(config: Any) -> bool:
    """Whether the host's trainer computes in bfloat16 (autocast over float32 weights)."""
    return bool(config.training.bf16)


def sources() -> str:
    """SHA-256 over the host's files that make features: every GR00T calls itself 0.1.0."""
    total = hashlib.sha256()
    for module in (image_augmentations, processing_gr00t_n1d7, qwen3_backbone):
        total.update(Path(str(module.__file__)).read_bytes())
    return total.hexdigest()


def augmentation_of(processor: Any) -> dict[str, Any] | None:
    """What the host's training transform randomises in the images; None when nothing.

    Its crop is random wherever it leaves something out, and there is no flag that turns it off.
    """
    found: dict[str, Any] = {}
    crop, target = processor.image_crop_size, processor.image_target_size
    fraction = processor.crop_fraction
    if fraction is None and crop is not None and target is not None:
        fraction = crop[0] / target[0]
    if fraction is not None and fraction < 1:
        found["random_crop"] = fraction
    for name in ("random_rotation_angle", "color_jitter_params", "extra_augmentation_config"):
        if value := getattr(processor, name, None):
            found[name] = value
    return plain(found) or None


def processor_settings(processor: Any, datasets: Sequence[Any], words: bool) -> dict[str, Any]:
    """How images and prompts are prepared."""
    out: dict[str, Any] = {name: getattr(processor, name, None) for name in PREPARED}
    tokenizer, images = processor.processor.tokenizer, processor.processor.image_processor
    vocabulary = [sorted(tokenizer.get_vocab().items()), processor.processor.chat_template]
    out["tokenizer"] = digest(json.dumps(vocabulary))
    numbers = json.loads(images.to_json_string())
    out["image_processor"] = {k: v for k, v in numbers.items() if k not in ("device", "_name_or_path")}
    out["cameras"] = {
        d.embodiment_tag.value: _cameras(processor.modality_configs[d.embodiment_tag.value]) for d in datasets
    }
    if words:
        out["formalize_language"] = processor.formalize_language
    return out


def _cameras(modality: Mapping[str, Any]) -> dict[str, Any]:
    """Which images a step has: names in their order, and times."""
    return {n: [list(modality[n].modality_keys), list(modality[n].delta_indices)] for n in cache.SEEN if n in modality}
