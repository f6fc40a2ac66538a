"""The two passes of a π-style model in PyTorch: prefix to per-layer keys and values, then expert on them.

    B batch   K noise draws   T suffix tokens   S prefix tokens   D width   H heads   G key/value heads   C head width

The prefix never attends to the suffix, so two passes equal the hosts' joint pass; but a joint pass concatenates
both streams, which makes autograd walk through a frozen VLM that cannot change. Layers are the host's own modules
(names as in openpi's and lerobot's `PaliGemmaWithExpertModel`); only the order of calls is ours. Layer functions
are pure, without a cache object, so that they can be checkpointed: hosts' cached path loses its cache there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from apt_plugin.backends.torch_fusion import FusionStack, HostFusion, InterleavedFusion, Read, attend, rotate
from apt_plugin.backends.torch_recompute import recomputed, recomputed_unless
from apt_plugin.language import PrefixRules


@dataclass(frozen=True)
class PrefixCache:
    """What the expert may read of the prefix, per VLM layer."""

    k: list[Tensor]  # depth x [B, G, S, C], RoPE applied
    v: list[Tensor]  # depth x [B, G, S, C]
    kept: Tensor  # [B, S] bool: what inherited layers read
    spoken: Tensor  # [B, S] bool: valid instruction tokens
    suffix_offset: Tensor  # [B] int

    def blanked(self) -> PrefixCache:
        """The same prefix under an empty instruction. Exact on an isolated prefix: kept keys do not know it."""
        return replace(self, spoken=torch.zeros_like(self.spoken))


class Saving(Enum):
    """What the backward pass computes again."""

    NOTHING = 0
    WEIGHTS = 1  # attention weights and activations of feed-forwards
    LAYERS = 2  # whole layers


def _run(function: Callable, saving: Saving, *args: Any) -> Any:
    return recomputed(function, *args) if saving == Saving.LAYERS else function(*args)


def _residual(x: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
    return x + branch if gate is None else x + branch * gate  # adaRMS gates are π0.5's own, not ours


def split_heads(x: Tensor, draws: int, width: int) -> Tensor:
    """[B*K, T, H*C] -> [B, K, H, T, C]"""
    n, t, _ = x.shape
    return x.reshape(n // draws, draws, t, -1, width).transpose(2, 3)


def merge_heads(x: Tensor) -> Tensor:
    """[B, K, H, T, C] -> [B*K, T, H*C]"""
    b, draws, _, t, _ = x.shape
    return x.transpose(2, 3).reshape(b * draws, t, -1)


def gated(mlp: Any, x: Tensor, keep: bool) -> Tensor:
    """The host's feed-forward, whose activation the backward pass computes again; keep: as in `attend`."""
    return mlp.down_proj(
        recomputed_unless(keep, lambda gate, up: mlp.act_fn(gate) * up, mlp.gate_proj(x), mlp.up_proj(x))
    )


def _feed_forward(layer: Any, x: Tensor, cond: Tensor | None, saving: Saving) -> Tensor:
    hidden, gate = layer.post_attention_layernorm(x, cond)
    keep = saving != Saving.WEIGHTS
    return _residual(x, gated(layer.mlp, hidden.to(layer.mlp.up_proj.weight.dtype), keep).to(x.dtype), gate)


def prefix_pass(
    language_model: Any, x: Tensor, rules: PrefixRules, saving: Saving = Saving.NOTHING
) -> tuple[list, list]:
    """Run the VLM's language model over the prefix and keep every layer's keys and values.

    The last layer's attention and feed-forward are skipped: nobody reads what they compute.

    Args:
        language_model: the host's Gemma with `layers` and `rotary_emb`.
        x: [B, S, D] prefix embeddings; rules: masks and positions as torch tensors.

    Returns:
        (k, v), each depth x [B, G, S, C].
    """
    rotary = language_model.rotary_emb(x, rules.position)
    mask = rules.attend[:, None, None]  # [B, 1, 1, S, S]
    keys, values = [], []
    layers = language_model.layers
    for index, layer in enumerate(layers):
        last = index == len(layers) - 1

        def run(x: Tensor, layer: Any = layer, last: bool = last) -> tuple[Tensor, Tensor, Tensor]:
            attn = layer.self_attn
            h, _ = layer.input_layernorm(x)
            k = rotate(split_heads(attn.k_proj(h), 1, attn.head_dim), rotary)[:, 0]
            v = split_heads(attn.v_proj(h), 1, attn.head_dim)[:, 0]
            if last:
                return x, k, v
            q = rotate(split_heads(attn.q_proj(h), 1, attn.head_dim), rotary)
            out, _ = attend(q, Read(k, v, mask), keep=saving != Saving.WEIGHTS)
            return _feed_forward(layer, x + attn.o_proj(merge_heads(out)), None, saving), k, v

        x, k, v = _run(run, saving, x)
        keys.append(k)
        values.append(v)
    return keys, values


@dataclass(frozen=True)
class Suffix:
    """The action expert's input: [state token,] noisy action chunk, for K draws per sample."""

    x: Tensor  # [B*K, T, D]
    cond: Tensor | None  # [B*K, D]: π0.5's time embedding for adaRMS
    attend: Tensor  # [B, K, T, T] bool
    position: Tensor  # [B, T] int


def expert_pass(
    expert: Any,
    rotary_emb: nn.Module,
    suffix: Suffix,
    cache: PrefixCache,
    fusions: FusionStack | None = None,
    saving: Saving = Saving.NOTHING,
) -> Tensor:
    """Run the action expert on a prefix cache.

    Args:
        expert: the host's Gemma expert with `layers` and `norm`.
        fusions: Stage 2's fusion per layer index; None is the prior, which is what closed gates compute.

    Returns:
        [B*K, T, D] after the final norm.
    """
    x, cond = suffix.x, suffix.cond
    draws = suffix.attend.shape[1]
    rotary = rotary_emb(x, suffix.position)
    readable = cache.kept | cache.spoken
    kept = cache.kept[:, None, None, None]  # [B, 1, 1, 1, S]
    suffix_mask = suffix.attend[:, :, None]  # [B, K, 1, T, T]
    for index, layer in enumerate(expert.layers):
        fusion = None if fusions is None else fusions.at(index)

        def run(x: Tensor, layer: Any = layer, fusion: Any = fusion, index: int = index) -> Tensor:
            attn = layer.self_attn
            prefix_k, prefix_v = cache.k[index], cache.v[index]
            h, gate = layer.input_layernorm(x, cond)
            q = rotate(split_heads(attn.q_proj(h), draws, attn.head_dim), rotary)
            k = rotate(split_heads(attn.k_proj(h), draws, attn.head_dim), rotary)
            v = split_heads(attn.v_proj(h), draws, attn.head_dim)
            also = cache.spoken[:, None, None, None] if isinstance(fusion, HostFusion) else None
            read = Read(prefix_k, prefix_v, kept), Read(k, v, suffix_mask)
            out, heard = attend(q, *read, also=also, keep=saving != Saving.WEIGHTS)

            def project(out: Tensor) -> Tensor:
                return attn.o_proj(merge_heads(out).to(attn.o_proj.weight.dtype))

            branch = project(out)
            if isinstance(fusion, HostFusion) and heard is not None:
                branch = branch + fusion.instruction_branch(heard, project)
            x = _feed_forward(layer, _residual(x, branch, gate), cond, saving)
            if isinstance(fusion, InterleavedFusion):
                x = fusion(x, rotary, prefix_k, prefix_v, readable, keep=saving != Saving.WEIGHTS)
            return x

        x = _run(run, saving, x)
    return expert.norm(x, cond)[0]
