"""The fusion rule in PyTorch; `apt_plugin.fusion` is its oracle (tests/backends).

    B batch   K noise draws   T suffix tokens   S prefix tokens   D width   H heads   G key/value heads   C head width

The suffix stream is [B*K, T, D]: draws are folded into the batch wherever layers act on single tokens, and
unfolded where attention meets prefix keys, which all draws of a sample share without a copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_plugin.backends.torch_recompute import recomputed_unless
from apt_plugin.errors import AptError
from apt_plugin.fusion import EPS, gate_size
from apt_plugin.recipe import Fusion


def scores(q: Tensor, k: Tensor) -> Tensor:
    """q [B, K, H, T, C], k [B, G, S, C] (shared by the draws) or [B, K, G, S, C] -> [B, K, H, T, S] float32."""
    b, draws, heads, t, c = q.shape
    g = k.shape[-3]
    grouped = q.reshape(b, draws, g, heads // g, t, c)
    letters = "bkghtc,bgsc->bkghts" if k.dim() == 4 else "bkghtc,bkgsc->bkghts"
    out = torch.einsum(letters, grouped, k) * c**-0.5
    return out.reshape(b, draws, heads, t, -1).float()


def weigh(weights: Tensor, v: Tensor) -> Tensor:
    """weights [B, K, H, T, S], v as in `scores` -> [B, K, H, T, C] in v's dtype."""
    b, draws, heads, t, s = weights.shape
    g = v.shape[-3]
    grouped = weights.to(v.dtype).reshape(b, draws, g, heads // g, t, s)
    letters = "bkghts,bgsc->bkghtc" if v.dim() == 4 else "bkghts,bkgsc->bkghtc"
    return torch.einsum(letters, grouped, v).reshape(b, draws, heads, t, -1)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the keys that `mask` (bool, broadcastable) allows; rows without any key are exactly zero.

    The large finite value keeps the result exact (masked weights underflow to 0.0) without the NaN that
    -inf gives in an empty row, e.g. the instruction branch of an empty instruction.
    """
    filled = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return torch.softmax(filled, -1).masked_fill(~mask, 0.0)


class Read(NamedTuple):
    """One set of keys and values."""

    k: Tensor  # [B, G, S, C], or [B, K, G, S, C] for keys that each draw has for itself
    v: Tensor  # as k
    mask: Tensor  # bool, broadcasts to [B, K, 1, T, S]


def attend(q: Tensor, *read: Read, also: Tensor | None = None, keep: bool = False) -> tuple[Tensor, Tensor | None]:
    """Attention under one softmax over all sets. The backward pass computes its weights again: in float32, for each
    head and draw, they would be most of what a step keeps, and they cost about a hundredth of its FLOPs.

    Args:
        q: [B, K, H, T, C], in the dtype in which the scores are wanted.
        also: bool, as a set's mask: a second softmax, over those keys of the first set alone.
        keep: keep the weights, as the caller is computed again as a whole.

    Returns:
        [B, K, H, T, C] in v's dtype, twice (None without `also`); rows without any key are exactly zero.
    """
    b, draws, _, t, _ = q.shape

    def run(q: Tensor, *read: Read) -> tuple[Tensor, Tensor | None]:
        found = [scores(q, k.to(q.dtype)) for k, _, _ in read]
        masks = [mask.expand(b, draws, 1, t, k.shape[-2]) for k, _, mask in read]
        weights = masked_softmax(torch.cat(found, -1), torch.cat(masks, -1)).split([m.shape[-1] for m in masks], -1)
        out = functools.reduce(torch.add, (weigh(part, v) for part, (_, v, _) in zip(weights, read, strict=True)))
        return out, None if also is None else weigh(masked_softmax(found[0], also), read[0].v)

    return recomputed_unless(keep, run, q, *read)


class Gate(nn.Module):
    """The gate of one fusion; a module, not a bare parameter, because PEFT saves modules (modules_to_save).

    float32 whatever the model's dtype: it starts at 0 and moves by about the learning rate per step.
    """

    def __init__(self, fusion: Fusion, heads: int, width: int):
        super().__init__()
        self.granularity, self.kind = fusion.gate, fusion.kind
        self.w = nn.Parameter(torch.zeros(gate_size(fusion.gate, heads, width), dtype=torch.float32))

    def openness(self) -> Tensor:
        g = torch.sigmoid(self.w)
        return g if self.kind == "interleaved" else 2 * g - 1

    def on_heads(self, out: Tensor) -> Tensor:
        """out [..., H, T, C]: per-head gates act before the output projection."""
        return out * self.openness()[:, None, None].to(out.dtype) if self.granularity == "head" else out

    def on_width(self, branch: Tensor) -> Tensor:
        """branch [..., D]: scalar and per-channel gates act behind it."""
        return branch if self.granularity == "head" else branch * self.openness().to(branch.dtype)


class RMSNorm(nn.Module):
    """Gemma's: scale 1 + weight, computed in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + EPS)
        return (y * (1 + self.weight.float())).to(x.dtype)


class HostFusion(nn.Module):
    """The host's own pathway to the instruction, gated. The gate is all it adds."""

    def __init__(self, fusion: Fusion, width: int, heads: int, head_width: int):
        super().__init__()
        self.gate = Gate(fusion, heads, width)

    def instruction_branch(self, heard: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        """What the instruction adds behind the layer's own output projection.

        Args:
            heard: what the layer's own queries read of the instruction tokens alone, [B, K, H, T, C].
            project: merges heads and applies the layer's o_proj, [B, K, H, T, C] -> [B*K, T, D].

        Returns:
            [B*K, T, D]
        """
        return self.gate.on_width(project(self.gate.on_heads(heard)))


class InterleavedFusion(nn.Module):
    """A new attention layer behind an inherited one, reading the VLM's own keys and values at that depth."""

    def __init__(self, fusion: Fusion, width: int, heads: int, head_width: int):
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.norm = RMSNorm(width)
        self.q_proj = nn.Linear(width, heads * head_width, bias=False)
        self.o_proj = nn.Linear(heads * head_width, width, bias=False)
        nn.init.zeros_(self.o_proj.weight)  # closed, and alive: it has a gradient at once
        self.gate = Gate(fusion, heads, width)
        self.ff_norm = self.ff_in = self.ff_out = None
        if fusion.feed_forward:
            self.ff_norm = RMSNorm(width)
            self.ff_in = nn.Linear(width, 4 * width, bias=False)
            self.ff_out = nn.Linear(4 * width, width, bias=False)
            nn.init.zeros_(self.ff_out.weight)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], k: Tensor, v: Tensor, mask: Tensor, keep: bool = False
    ) -> Tensor:
        """x [B*K, T, D]; rotary: cos, sin, each [B, T, C]; k, v [B, G, S, C]; mask [B, S] bool -> [B*K, T, D]."""
        b, t = k.shape[0], x.shape[1]
        q = self.q_proj(self.norm(x)).reshape(b, -1, t, self.heads, self.head_width).transpose(2, 3)
        q = rotate(q, rotary).to(k.dtype)
        out, _ = attend(q, Read(k, v, mask[:, None, None, None]), keep=keep)
        out = self.gate.on_heads(out).transpose(2, 3).reshape(x.shape[0], t, -1)
        x = x + self.gate.on_width(self.o_proj(out.to(self.o_proj.weight.dtype))).to(x.dtype)
        if self.ff_in is None or self.ff_out is None or self.ff_norm is None:
            return x
        hidden = self.ff_out(F.gelu(self.ff_in(self.ff_norm(x)), approximate="tanh"))
        g = self.gate.openness()
        return x + hidden * (g.mean() if self.gate.granularity == "head" else g).to(x.dtype)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding: x [B, K, H, T, C]; cos, sin [B, T, C], as the host's own rotary module gives them."""
    cos, sin = (part[:, None, None].to(x.dtype) for part in rotary)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


FUSIONS: dict[str, type[HostFusion] | type[InterleavedFusion]] = {
    "host": HostFusion,
    "interleaved": InterleavedFusion,
}


class FusionStack(nn.Module):
    """One fusion per site, named by the inherited layer's index.

    Not an nn.ModuleDict: PEFT's modules_to_save refuses containers, and reaches a module only through methods.
    """

    def __init__(self, fusions: Mapping[int, nn.Module]):
        super().__init__()
        self.sites = list(fusions)  # indices of inherited layers, in order
        for site, module in fusions.items():
            self.add_module(str(site), module)

    def at(self, index: int) -> nn.Module | None:
        """The fusion behind inherited layer `index`, None where there is none."""
        return self._modules.get(str(index))

    def openings(self) -> dict[str, float]:
        """Site -> mean |g| of its gate, for logs and reports."""
        gates = {str(site): getattr(self.at(site), "gate", None) for site in self.sites}
        return {site: float(g.openness().detach().abs().mean()) for site, g in gates.items() if isinstance(g, Gate)}


def build_fusion(fusion: Fusion, sites: list[int], width: int, heads: int, head_width: int) -> FusionStack:
    """One fusion per site.

    Raises:
        AptError: no site.
    """
    if not sites:
        raise AptError("A model without expert layers has no place for fusion.")
    cls = FUSIONS[fusion.kind]
    return FusionStack({site: cls(fusion, width, heads, head_width) for site in sites})


def gate_openings(fusions: FusionStack) -> dict[str, float]:
    """`FusionStack.openings` as a function, as the JAX form has it."""
    return fusions.openings()
