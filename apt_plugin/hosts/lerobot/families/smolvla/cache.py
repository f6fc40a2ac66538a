"""What SmolVLA stores per frame: the image tokens behind tower and connector, 123 kB per camera in bfloat16.

    B batch   D VLM width

Keys and values would save little more (the tower is three quarters of a step), and could not leave the language model
out of memory: the state's token runs through it, with gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from apt_plugin.backends.torch_bytes import SAFE, to_numpy
from apt_plugin.cache import Field


def encode(policy: Any, batch: dict[str, Any]) -> tuple[list[dict[str, np.ndarray]], dict[str, Field]]:
    """The entries of a processed batch [B], and what they consist of."""
    images, masks = policy.prepare_images(batch)
    present = [image for image, mask in zip(images, masks, strict=True) if bool(mask.any())]
    tokens = torch.cat([policy.model.vlm_with_expert.embed_image(image) for image in present], 1)
    return [{"tokens": to_numpy(row)} for row in tokens], {"tokens": Field(SAFE[tokens.dtype], (tokens.shape[-1],))}


def images_of(policy: Any, fields: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Cached image tokens per camera [B, n, D], in the place of images; absent cameras are masked, as in the host."""
    tokens, config = fields["tokens"], policy.config
    vlm = policy.model.vlm_with_expert.vlm.config
    sides = config.resize_imgs_with_padding or next(iter(config.image_features.values())).shape[1:]
    one = int(np.prod([side // vlm.vision_config.patch_size for side in sides])) // vlm.scale_factor**2
    images = list(tokens.split(one, 1))
    missing = min(len(config.image_features) - len(images), config.empty_cameras)
    there = torch.ones(tokens.shape[0], dtype=torch.bool, device=tokens.device)
    return images + [torch.zeros_like(images[0])] * missing, [there] * len(images) + [~there] * missing
