"""GR00T's action transformer in PyTorch under the recipe: text blocks off, gated, or joined by fusion layers.

    B batch   K noise draws   T suffix tokens (state, actions)   S prefix tokens   D suffix width   E feature width
    H heads   C head width

The suffix stream is [B*K, T, D]. Cross-attention mixes no queries, so the K draws of a sample are K*T queries on
one set of keys and values: computed once, and in sampling once for all integration steps. Layers are the host's own
modules (`AlternateVLDiT`: odd blocks self-attention, even ones cross-attention to text or to image tokens in turn).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_plugin.backends.torch_fusion import FusionStack, Gate, RMSNorm
from apt_plugin.backends.torch_recompute import recomputed_unless
from apt_plugin.errors import AptError
from apt_plugin.fusion import fusion_sites
from apt_plugin.recipe import Fusion


@dataclass(frozen=True)
class Features:
    """What the action transformer may read."""

    vl: Tensor  # [B, S, E], behind the adapter
    image: Tensor  # [B, S] bool
    text: Tensor  # [B, S] bool: valid tokens that are no image token
    taps: tuple[Tensor, ...] | None = None  # per fusion site [B, S, E]; None: all sites read `vl`
    language: bool = True  # False is the prior: every gate closed
    kv: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)  # keys and values, kept while sampling

    def prior(self) -> Features:
        return replace(self, language=False)


def split_heads(x: Tensor, batch: int, heads: int) -> Tensor:
    """[B*K, T, H*C] -> [B, H, K*T, C]"""
    return x.reshape(batch, -1, heads, x.shape[-1] // heads).transpose(1, 2)


def merge_heads(x: Tensor, like: Tensor) -> Tensor:
    """[B, H, K*T, C] -> [B*K, T, H*C], T from `like` [B*K, T, D]"""
    return x.transpose(1, 2).reshape(like.shape[0], like.shape[1], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, readable: Tensor) -> Tensor:
    """q [B, H, K*T, C], k and v [B, H, S, C], readable [B, S] bool -> [B, H, K*T, C]; zero where nothing is readable.

    A row without keys is opened for the kernel, whose answer to it depends on the backend, and zeroed behind it.
    """
    some = readable.any(-1)
    mask = (readable | ~some[:, None])[:, None, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return torch.where(some[:, None, None, None], out, 0.0)


def _kept(features: Features, key: Any, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled():
        return make()
    if key not in features.kv:
        features.kv[key] = make()
    return features.kv[key]


def cross_attention(attn: Any, x: Tensor, features: Features, readable: Tensor, key: Any, gate: Any = None) -> Tensor:
    """The host's own cross-attention (diffusers `Attention`), keys and values shared by the draws.

    Args:
        x: [B*K, T, D] normed; readable: [B, S]; key: names the site; gate: a Gate on what comes out.

    Returns:
        [B*K, T, D]
    """
    b, heads = features.vl.shape[0], attn.heads

    def make() -> tuple[Tensor, Tensor]:
        return split_heads(attn.to_k(features.vl), b, heads), split_heads(attn.to_v(features.vl), b, heads)

    k, v = _kept(features, key, make)
    out = attend(split_heads(attn.to_q(x), b, heads), k, v, readable)
    project = attn.to_out[0]
    if gate is None:
        return attn.to_out[1](project(merge_heads(out, x)))
    branch = project(merge_heads(gate.on_heads(out), x))
    if gate.granularity == "head" and project.bias is not None:
        # The bias belongs to no head. Scaled by the mean opening, closed heads leave nothing behind, and the gate
        # still folds into the projection.
        branch = branch + project.bias * (gate.openness().mean() - 1).to(branch.dtype)
    return attn.to_out[1](gate.on_width(branch))


class TextGate(nn.Module):
    """Kind `host`: the host's own text block, its attention branch times a gate. The gate is all it adds."""

    def __init__(self, fusion: Fusion, width: int, heads: int):
        super().__init__()
        self.gate = Gate(fusion, heads, width)


class FeatureFusion(nn.Module):
    """Kind `interleaved`: a new cross-attention layer behind an inherited block, with projections of its own.

    GR00T's action transformer shares no keys or head width with its VLM, so both are projected from the features.
    """

    def __init__(self, fusion: Fusion, width: int, heads: int, features: int):
        super().__init__()
        self.heads = heads
        self.norm, self.kv_norm = RMSNorm(width), RMSNorm(features)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(features, width, bias=False)
        self.v_proj = nn.Linear(features, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.o_proj.weight)  # closed, and alive: it has a gradient at once
        self.gate = Gate(fusion, heads, width)
        self.ff_norm = self.ff_in = self.ff_out = None
        if fusion.feed_forward:
            self.ff_norm = RMSNorm(width)
            self.ff_in = nn.Linear(width, 4 * width, bias=False)
            self.ff_out = nn.Linear(4 * width, width, bias=False)
            nn.init.zeros_(self.ff_out.weight)

    def forward(self, x: Tensor, features: Features, states: Tensor, key: Any) -> Tensor:
        """x [B*K, T, D], states [B, S, E] -> [B*K, T, D]"""
        b = states.shape[0]

        def make() -> tuple[Tensor, Tensor]:
            normed = self.kv_norm(states)
            return split_heads(self.k_proj(normed), b, self.heads), split_heads(self.v_proj(normed), b, self.heads)

        k, v = _kept(features, key, make)
        out = attend(split_heads(self.q_proj(self.norm(x)), b, self.heads), k, v, features.image | features.text)
        branch = self.o_proj(merge_heads(self.gate.on_heads(out), x))
        x = x + self.gate.on_width(branch).to(x.dtype)
        if self.ff_in is None or self.ff_out is None or self.ff_norm is None:
            return x
        wide, narrow = self.ff_in(self.ff_norm(x)), self.ff_out
        hidden = recomputed_unless(False, lambda h: narrow(F.gelu(h, approximate="tanh")), wide)
        g = self.gate.openness()
        return x + (hidden * (g.mean() if self.gate.granularity == "head" else g).to(hidden.dtype)).to(x.dtype)


def text_blocks(dit: Any) -> list[int]:
    """Indices of the blocks that cross-attend to text."""
    return [i for i in range(0, len(dit.transformer_blocks), 2 * dit.attend_text_every_n_blocks)]


def sites_of(dit: Any, fusion: Fusion) -> list[int]:
    """Blocks where language comes in: text blocks that are gated, or inherited blocks that a fusion layer follows."""
    blocks = text_blocks(dit) if fusion.kind == "host" else list(range(len(dit.transformer_blocks)))
    return [blocks[i] for i in fusion_sites(len(blocks), fusion.every)]


def build_fusions(dit: Any, fusion: Fusion, features: int) -> FusionStack:
    """One fusion per site, keyed by the block's index. `features` is the width of what it reads."""
    width, heads = dit.inner_dim, dit.transformer_blocks[0].attn1.heads
    made: dict[int, nn.Module] = {}
    for site in sites_of(dit, fusion):
        host = fusion.kind == "host"
        made[site] = TextGate(fusion, width, heads) if host else FeatureFusion(fusion, width, heads, features)
    return FusionStack(made)


class AptDiT:
    """Mixed in front of the host's `AlternateVLDiT`; adds `apt_fusion` in Stage 2 and no parameter in Stage 1."""

    transformer_blocks: Any
    apt_fusion: FusionStack | None

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, timestep: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None, return_all_hidden_states: bool = False,
        image_mask: Any = None, backbone_attention_mask: Tensor | None = None,
    ) -> Any:  # fmt: skip
        """The host's signature. `image_mask`, which both hosts hand through untouched, carries `Features`.

        Args:
            hidden_states: [B*K, T, D]; timestep: [B*K] int.
        """
        if not isinstance(image_mask, Features):
            raise AptError("An APT action transformer was called with plain masks: call the model, not its parts.")
        features: Any = image_mask
        temb = self.timestep_encoder(timestep)  # type: ignore[attr-defined]
        x, collected = hidden_states, [hidden_states]
        text, fusions = set(text_blocks(self)), getattr(self, "apt_fusion", None)
        if not features.language:
            fusions = None
        order: dict[int, int] = {site: place for place, site in enumerate(fusions.sites if fusions is not None else ())}
        for index, block in enumerate(self.transformer_blocks):
            fusion = None if fusions is None else fusions.at(index)
            x = run_block(block, x, temb, features, index, index in text, fusion)
            if isinstance(fusion, FeatureFusion):
                states = features.vl if features.taps is None else features.taps[order[index]]
                x = fusion(x, features, states, ("fusion", index))
            collected.append(x)
        shift, scale = self.proj_out_1(F.silu(temb)).chunk(2, dim=1)  # type: ignore[attr-defined]
        out = self.norm_out(x) * (1 + scale[:, None]) + shift[:, None]  # type: ignore[attr-defined]
        out = self.proj_out_2(out)  # type: ignore[attr-defined]
        return (out, collected) if return_all_hidden_states else out


def run_block(
    block: Any, x: Tensor, temb: Tensor, features: Features, index: int, text: bool, fusion: nn.Module | None
) -> Tensor:
    """One inherited block: its attention branch (text: only through a gate), then its feed-forward."""
    if not text or isinstance(fusion, TextGate):
        h = block.norm1(x, temb) if block.norm_type == "ada_norm" else block.norm1(x)
        h = h if block.pos_embed is None else block.pos_embed(h)
        if index % 2 == 1:
            branch = block.attn1(h)
        elif text:
            branch = cross_attention(block.attn1, h, features, features.text, index, fusion.gate)  # type: ignore[union-attr]
        else:
            branch = cross_attention(block.attn1, h, features, features.image, index)
        x = x + (branch if block.final_dropout is None else block.final_dropout(branch))
    return x + feed_forward(block.ff, block.norm3(x))


def feed_forward(ff: Any, x: Tensor) -> Tensor:
    """The host's own (diffusers `FeedForward`), [B*K, T, D] -> [B*K, T, D]. Behind its first projection nothing of its
    width of 4 D is kept: the backward pass applies activation and dropout again, and computes no product twice.
    """
    widen, dropout, narrow, *rest = ff.net
    if not hasattr(widen, "gelu"):  # the host's configs can name gated activations; its checkpoints do not
        return ff(x)
    random = dropout.training and dropout.p > 0
    out = recomputed_unless(False, lambda h: narrow(dropout(widen.gelu(h))), widen.proj(x), random=random)
    for module in rest:
        out = module(out)
    return out


def stage_frozen(dit: Any, fusion: Fusion | None) -> set[str]:
    """Names below the transformer that no gradient can reach: attention and its norm in text blocks that stay off.

    Left trainable they would stop DDP, which both hosts' trainers run without a search for unused parameters.
    """
    on = set(sites_of(dit, fusion)) if fusion is not None and fusion.kind == "host" else set()
    off = tuple(
        f"transformer_blocks.{i}.{part}." for i in text_blocks(dit) if i not in on for part in ("attn1", "norm1")
    )
    return {name for name, _ in dit.named_parameters() if name.startswith(off)} if off else set()
