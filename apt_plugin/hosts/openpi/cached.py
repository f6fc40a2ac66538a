"""Training from a feature cache in openpi: what the model is fed in place of images.

    B batch   S prefix tokens   N VLM layers   G key/value heads   C head width   M cameras   I tokens of an image
    D VLM width

`kv`      keys and values of every layer for the tokens that the expert may read: nothing of the VLM runs any more.
          14 MB per frame of π0 in bfloat16, so for small sets.
`vision`  the image tokens (3 MB): skips decoding and image tower; the language model runs.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct
from jax import Array
from openpi.models import model as _model
from openpi.shared import array_typing as at

from apt_plugin.backends.jax_pi import PrefixCache


@struct.dataclass
class CachedObservation(_model.Observation):
    """The host's observation with cached features; its images are one pixel each, for whoever logs them."""

    apt_cache: Any = None  # field -> [B, longest, *tail], and `<field>.length` [B]


def stored(obs: Any) -> dict[str, Array] | None:
    return getattr(obs, "apt_cache", None)


def of_batch(batch: dict[str, Any]) -> CachedObservation:
    """What the host's loader makes of a batch, cameras in the order of its preprocessing, absent masks true."""
    images, masks = batch["image"], batch["image_mask"]
    with at.disable_typechecking():
        host = _model.Observation.from_dict({name: part for name, part in batch.items() if name != "apt_cache"})
        there = jnp.ones(host.state.shape[:1], jnp.bool_)
        return CachedObservation(
            images={name: images[name] for name in _model.IMAGE_KEYS},
            image_masks={name: jnp.asarray(masks.get(name, there)) for name in _model.IMAGE_KEYS},
            state=host.state,
            tokenized_prompt=host.tokenized_prompt,
            tokenized_prompt_mask=host.tokenized_prompt_mask,
            token_ar_mask=host.token_ar_mask,
            token_loss_mask=host.token_loss_mask,
            apt_cache=batch["apt_cache"],
        )


def prefix_of(fields: dict[str, Array]) -> PrefixCache:
    """Cached keys and values as the expert reads them; tokens in the prefix's order, left-out ones closed up."""
    k, v = (jnp.transpose(fields[name], (2, 0, 3, 1, 4)) for name in ("k", "v"))  # [N, B, G, S, C]
    there = jnp.arange(k.shape[3]) < fields["k.length"][:, None]
    spoken = fields["spoken"] & there
    return PrefixCache(k, v, there & ~spoken, spoken, fields["offset"][:, 0])


def image_tokens(fields: dict[str, Array], masks: dict[str, Array]) -> tuple[Array, Array]:
    """Cached image tokens in the places of all cameras: (tokens [B, M*I, D], which are there [B, M*I]).

    Only cameras that a frame has are stored; in an absent one's place stands another's, behind its mask.
    """
    tokens = fields["tokens"]  # [B, cameras stored, I, D]
    there = jnp.stack(list(masks.values()), 1)
    place = jnp.clip(jnp.cumsum(there, 1) - 1, 0, tokens.shape[1] - 1)
    out = jnp.take_along_axis(tokens, place[:, :, None, None], 1)
    return out.reshape(len(out), -1, tokens.shape[-1]), jnp.repeat(there, tokens.shape[2], 1)


def needless(path: str, kind: str) -> bool:
    """Whether a cached step leaves this parameter of the host's tree alone."""
    from apt_plugin.hosts.openpi.optim import part_of

    return part_of(path) == "vlm" and (kind == "kv" or path.startswith("PaliGemma/img/"))
