"""The fusion rule in words, and its numpy reference: the oracle that torch and JAX must match.

    B batch   K noise draws   T suffix tokens   S prefix tokens   D width   H heads   G key/value heads   C head width

    interleaved   x <- x + g * W_o Attention(W_q norm(x), prefix K/V at that depth)      (paper, Eq. 3)
    host          attention output <- A(kept and suffix keys) + g * A(instruction keys)

`g` is one number per layer (scalar), per head, or per channel. *Interleaved* uses sigmoid(w), w = 0, and a
zero W_o: any gate value is closed, and W_o has a gradient at once. *Host* uses 2 sigmoid(w) - 1, zero at w = 0,
where the branch itself is not zero, so the gate has a gradient at once. Closed by exactly one zero factor.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

EPS = 1e-6  # RMS-norm, as in Gemma


def openness(w: ndarray, kind: str) -> ndarray:
    """Gate values g of the raw parameters w (any shape): sigmoid in [0, 1], or its tanh-like form in [-1, 1]."""
    g = 1 / (1 + np.exp(-w))
    return g if kind == "interleaved" else 2 * g - 1


def rms_norm(x: ndarray, weight: ndarray) -> ndarray:
    """x [..., D], weight [D]; Gemma's convention, scale is 1 + weight."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * (1 + weight)


def attend(q: ndarray, k: ndarray, v: ndarray, mask: ndarray) -> ndarray:
    """Grouped-query attention; rows that may read nothing return exactly zero, never NaN.

    Args:
        q: [B, H, T, C]; k, v: [B, G, S, C] with H a multiple of G; mask: [B, T, S] bool.

    Returns:
        [B, H, T, C]
    """
    groups = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, groups, 1), np.repeat(v, groups, 1)
    logits = np.einsum("bhtc,bhsc->bhts", q, k) / np.sqrt(q.shape[-1])
    logits = np.where(mask[:, None], logits, -np.inf)
    top = logits.max(-1, keepdims=True)
    weights = np.where(mask[:, None], np.exp(logits - np.where(np.isfinite(top), top, 0)), 0)
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bhsc->bhtc", weights / np.where(total > 0, total, 1), v)


def merge_heads(x: ndarray) -> ndarray:
    """[B, H, T, C] -> [B, T, H * C]"""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def split_heads(x: ndarray, heads: int) -> ndarray:
    """[B, T, H * C] -> [B, H, T, C]"""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def rotate(x: ndarray, position: ndarray, theta: float = 10_000.0) -> ndarray:
    """Rotary embedding as Gemma has it: x [B, H, T, C], position [B, T]."""
    half = x.shape[-1] // 2
    angle = position[:, None, :, None] / theta ** (np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], -1
    )


def interleaved(
    x: ndarray, position: ndarray, k: ndarray, v: ndarray, mask: ndarray, params: dict[str, ndarray], gate: str
) -> ndarray:
    """One fusion layer behind an inherited layer.

    Args:
        x: [B, T, D] suffix stream; position: [B, T]; k, v: [B, G, S, C] the VLM's own at that depth, RoPE
            applied; mask: [B, S] bool, prefix tokens that language may come from (instruction included).
        params: norm [D], q [D, H*C], o [H*C, D], w (per `gate`: [1], [H] or [D]); with a feed-forward also
            ff_norm [D], ff_in [D, F], ff_out [F, D].

    Returns:
        [B, T, D]
    """
    heads = params["q"].shape[1] // k.shape[-1]
    q = rotate(split_heads(rms_norm(x, params["norm"]) @ params["q"], heads), position)
    out = attend(q, k, v, np.broadcast_to(mask[:, None], (*x.shape[:2], k.shape[2])))
    g = openness(params["w"], "interleaved")
    if gate == "head":
        out = out * g[None, :, None, None]
    branch = merge_heads(out) @ params["o"]
    x = x + (branch if gate == "head" else branch * g)
    if "ff_in" in params:
        hidden = gelu(rms_norm(x, params["ff_norm"]) @ params["ff_in"]) @ params["ff_out"]
        x = x + hidden * (g.mean() if gate == "head" else g)
    return x


def host(q: ndarray, k: ndarray, v: ndarray, instruction: ndarray, w: ndarray, gate: str, o: ndarray) -> ndarray:
    """What the instruction adds to an inherited layer's attention output, behind its own output projection.

    Args:
        q: [B, H, T, C] the layer's own queries, RoPE applied; k, v: [B, G, S, C]; instruction: [B, S] bool;
            w: per `gate`; o: [H*C, D] the layer's own output projection.

    Returns:
        [B, T, D]
    """
    out = attend(q, k, v, np.broadcast_to(instruction[:, None], (q.shape[0], q.shape[2], k.shape[2])))
    g = openness(w, "host")
    if gate == "head":
        return merge_heads(out * g[None, :, None, None]) @ o
    return (merge_heads(out) @ o) * g


def gelu(x: ndarray) -> ndarray:
    """The tanh form that Gemma uses."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gate_size(gate: str, heads: int, width: int) -> int:
    """How many numbers one layer's gate has."""
    return {"scalar": 1, "head": heads, "channel": width}[gate]


def fusion_sites(depth: int, every: int) -> list[int]:
    """Indices of the inherited layers that a fusion follows: the every-th, counted from 1.

    With `every` beyond the depth it is the last layer alone, so that language always has a way in.
    """
    return list(range(every - 1, depth, every)) or [depth - 1]
