"""The two passes of SmolVLA: prefix to per-layer keys and values, then the action expert on them.

    B batch   K noise draws   T action tokens   S prefix tokens   D width   H heads   G key/value heads   C head width

Unlike π: the robot's state is a *trained* token at the end of the prefix, which nothing in the prefix reads, so it has
a pass of its own that records gradients where the rest records none. The expert's layers are of two kinds: joint
self-attention over prefix and actions, and cross-attention to the prefix through the layer's own projections of its
keys and values, with query positions from 0. Residuals keep the dtype of the branch, as the host's in-place sums do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from apt_plugin.backends.torch_fusion import FusionStack, HostFusion, InterleavedFusion, Read, attend, rotate
from apt_plugin.backends.torch_pi import PrefixCache, gated, merge_heads, split_heads
from apt_plugin.language import PrefixRules

WAVELENGTH = 10_000.0  # the host's own, whatever the VLM's config says


def rotary_of(position: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """cos, sin, each [B, T, C] float32, of positions [B, T]."""
    half = torch.arange(width // 2, dtype=torch.float32, device=position.device)
    radians = position[..., None].float() / WAVELENGTH ** ((2.0 / width) * half)
    return torch.cat([radians.cos()] * 2, -1), torch.cat([radians.sin()] * 2, -1)


def _rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    return rotate(x.float(), rotary).to(x.dtype)


def _after(layer: Any, x: Tensor, out: Tensor) -> Tensor:
    """What follows attention: out [B*K, T, H*C] merged heads, x [B*K, T, D] the stream before it."""
    branch = layer.self_attn.o_proj(out.to(layer.self_attn.o_proj.weight.dtype))
    return _feed_forward(layer, _residual(branch, x))


def _residual(branch: Tensor, x: Tensor) -> Tensor:
    return (branch + x).to(branch.dtype)


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    return _residual(gated(layer.mlp, layer.post_attention_layernorm(x), keep=False), x)


def _projected(layer: Any, x: Tensor, draws: int, width: int, *names: str) -> list[Tensor]:
    """The layer's projections of its normed stream, each [B, K, heads, T, C]."""
    attn = layer.self_attn
    hidden = layer.input_layernorm(x).to(attn.q_proj.weight.dtype)
    return [split_heads(getattr(attn, name)(hidden), draws, width) for name in names]


def prefix_pass(text_model: Any, x: Tensor, rules: PrefixRules, width: int) -> tuple[list[Tensor], list[Tensor]]:
    """Images and prompt through the VLM's language model; the last layer's outputs are skipped, as nobody reads them.

    Args:
        x: [B, S, D] embeddings; width: C.

    Returns:
        (k, v), each depth x [B, G, S, C], RoPE applied to k.
    """
    rotary, mask = rotary_of(rules.position, width), rules.attend[:, None, None]
    keys, values = [], []
    for layer in text_model.layers:
        last = layer is text_model.layers[-1]
        k, v, *q = _projected(layer, x, 1, width, "k_proj", "v_proj", *([] if last else ["q_proj"]))
        k = _rotated(k, rotary)
        keys.append(k[:, 0])
        values.append(v[:, 0])
        if not last:
            out, _ = attend(_rotated(q[0], rotary).float(), Read(k[:, 0], v[:, 0], mask))
            x = _after(layer, x, merge_heads(out))
    return keys, values


def with_state(text_model: Any, x: Tensor, reads: Tensor, cache: PrefixCache) -> PrefixCache:
    """A prefix with the state token behind it.

    Args:
        x: [B, 1, D] the state's embedding; reads: [B, S] bool, what it attends to beside itself.
        cache: of images and prompt; its suffix_offset is the state's position.
    """
    width = cache.k[0].shape[-1]
    rotary = rotary_of(cache.suffix_offset[:, None], width)
    here = torch.ones_like(reads[:, :1])
    mask = torch.cat([reads, here], 1)[:, None, None, None]
    keys, values = [], []
    for index, layer in enumerate(text_model.layers):
        last = index == len(text_model.layers) - 1
        k, v, *q = _projected(layer, x, 1, width, "k_proj", "v_proj", *([] if last else ["q_proj"]))
        keys.append(torch.cat([cache.k[index], _rotated(k, rotary)[:, 0]], 2))
        values.append(torch.cat([cache.v[index], v[:, 0]], 2))
        if not last:
            out, _ = attend(_rotated(q[0], rotary).float(), Read(keys[-1], values[-1], mask))
            x = _after(layer, x, merge_heads(out))
    return replace(
        cache,
        k=keys,
        v=values,
        kept=torch.cat([cache.kept, here], 1),
        spoken=torch.cat([cache.spoken, ~here], 1),
        suffix_offset=cache.suffix_offset + 1,
    )


def _cross(attn: Any, projection: Any, x: Tensor) -> Tensor:
    """A cross layer's own map of the VLM's keys or values, [B, G, S, C] -> the same; it mixes heads."""
    b, _, s, width = x.shape
    flat = x.transpose(1, 2).reshape(b, s, -1).to(projection.weight.dtype)
    return projection(flat).reshape(b, s, -1, width).transpose(1, 2)


def expert_pass(
    expert: Any,
    x: Tensor,
    draws: int,
    cache: PrefixCache,
    cross: list[bool],
    depth: list[int],
    fusions: FusionStack | None = None,
) -> Tensor:
    """Run the action expert on a prefix cache; actions attend causally.

    Args:
        expert: the host's, with `layers` and `norm`. x: [B*K, T, D] embedded noisy chunks.
        cross: per expert layer, whether it is cross-attention; depth: the VLM layer whose keys it reads.
        fusions: Stage 2's fusion per layer index; None is the prior, which is what closed gates compute.

    Returns:
        [B*K, T, D] after the final norm.
    """
    width, t = cache.k[0].shape[-1], x.shape[1]
    steps = torch.arange(t, device=x.device)
    after_prefix = rotary_of(cache.suffix_offset[:, None] + steps, width)
    from_zero = rotary_of(steps[None], width)
    kept = cache.kept[:, None, None, None]
    causal = steps[None, :] <= steps[:, None]
    readable = cache.kept | cache.spoken
    for index, layer in enumerate(expert.layers):
        attn, raw_k, raw_v = layer.self_attn, cache.k[depth[index]], cache.v[depth[index]]
        fusion = None if fusions is None else fusions.at(index)
        also = cache.spoken[:, None, None, None] if isinstance(fusion, HostFusion) else None
        if cross[index]:
            (q,) = _projected(layer, x, draws, width, "q_proj")
            q = _rotated(q, from_zero)
            read = [Read(_cross(attn, attn.k_proj, raw_k), _cross(attn, attn.v_proj, raw_v), kept)]
        else:
            q, own_k, own_v = _projected(layer, x, draws, width, "q_proj", "k_proj", "v_proj")
            q, own_k = _rotated(q, after_prefix), _rotated(own_k, after_prefix)
            read = [Read(raw_k, raw_v, kept), Read(own_k, own_v, causal)]
        out, heard = attend(q.float(), *read, also=also)

        def project(out: Tensor, attn: Any = attn) -> Tensor:
            return attn.o_proj(merge_heads(out).to(attn.o_proj.weight.dtype))

        branch = project(out)
        if isinstance(fusion, HostFusion) and heard is not None:
            branch = branch + fusion.instruction_branch(heard, project)
        x = _feed_forward(layer, _residual(branch, x))
        if isinstance(fusion, InterleavedFusion):
            x = fusion(x, after_prefix, raw_k, raw_v, readable)
    return expert.norm(x)
