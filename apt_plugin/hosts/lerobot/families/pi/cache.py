"""What π stores per frame, and how the expert reads it.

    B batch   S prefix tokens   D VLM width   G key/value heads   C head width   N depth

`kv`      keys and values of every layer for the tokens that the expert may read: nothing of the VLM runs any more.
          14 MB per frame of π0.5 at 768 image tokens in bfloat16, so for small sets.
`vision`  the image tokens behind vision tower and projector (3 MB): skips decoding and tower; the language model runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from apt_plugin.backends.torch_bytes import SAFE, to_numpy
from apt_plugin.backends.torch_pi import PrefixCache
from apt_plugin.cache import Field
from apt_plugin.cache.request import keyed_by_words
from apt_plugin.hosts.lerobot.flow import PromptBatch

# -- writing ----------------------------------------------------------------------------------------------


def encode(policy: Any, batch: dict[str, Any], kind: str) -> tuple[list[dict[str, np.ndarray]], dict[str, Field]]:
    """The entries of a processed batch [B], and what they consist of."""
    images, masks = policy._preprocess_images(batch)
    if kind == "vision":
        present = [image for image, mask in zip(images, masks, strict=True) if bool(mask.any())]
        pwe = policy.model.paligemma_with_expert
        dtype = pwe.paligemma.model.language_model.layers[0].self_attn.q_proj.weight.dtype
        tokens = torch.cat([pwe.embed_image(image) for image in present], 1).to(dtype)
        return [{"tokens": to_numpy(row)} for row in tokens], {"tokens": Field(SAFE[dtype], (tokens.shape[-1],))}
    prefix = policy.model.prefix(images, masks, PromptBatch.of(batch))
    k, v = (torch.stack(part, 1).transpose(2, 3).flatten(1, 1) for part in (prefix.k, prefix.v))  # [B, N, S, G, C]
    k, v = k.transpose(1, 2), v.transpose(1, 2)  # [B, S, N, G, C]
    spoken = prefix.spoken if keyed_by_words(policy.config.stage, kind) else torch.zeros_like(prefix.spoken)
    entries = []
    for b in range(k.shape[0]):
        read = prefix.kept[b] | spoken[b]
        entries.append({
            "k": to_numpy(k[b][read]), "v": to_numpy(v[b][read]), "spoken": to_numpy(spoken[b][read]),
            "offset": to_numpy(prefix.suffix_offset[b].reshape(1).long()),
        })  # fmt: skip
    tail = Field(SAFE[k.dtype], tuple(k.shape[2:]))
    return entries, {"k": tail, "v": tail, "spoken": Field("BOOL"), "offset": Field("I64")}


# -- reading ----------------------------------------------------------------------------------------------


def prefix_of(fields: dict[str, Tensor]) -> PrefixCache:
    """Cached keys and values as the expert reads them; token order is the prefix's, left-out tokens closed up."""
    k, v = (list(fields[name].permute(2, 0, 3, 1, 4)) for name in ("k", "v"))  # N x [B, G, S, C]
    place = torch.arange(fields["k"].shape[1], device=fields["k"].device)
    there = place < fields["k.length"][:, None]
    spoken = fields["spoken"] & there
    return PrefixCache(k, v, there & ~spoken, spoken, fields["offset"][:, 0])


def images_of(policy: Any, fields: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Cached image tokens per camera [B, n, D], in the place of images; absent cameras are masked, as in the host."""
    tokens, cameras = fields["tokens"], len(policy.config.image_features)
    vision = policy.model.paligemma_with_expert.paligemma.model.vision_tower
    one = (policy.config.image_resolution[0] // vision.config.patch_size) ** 2
    images = list(tokens.split(one, 1))
    there = torch.ones(tokens.shape[0], dtype=torch.bool, device=tokens.device)
    masks = [there] * len(images) + [~there] * (cameras - len(images))
    return images + [torch.zeros_like(images[0])] * (cameras - len(images)), masks
