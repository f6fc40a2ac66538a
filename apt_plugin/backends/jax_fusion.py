"""The fusion rule in JAX; `apt_plugin.fusion` is its oracle (tests/backends). Names as in `torch_fusion`.

    B batch   K noise draws   T suffix tokens   S prefix tokens   D width   H heads   G key/value heads   C head width
    N fusion sites   P = B*K

The classes hold sizes only and are hashable, so they may be static arguments or closed over; parameters are
nested dictionaries that come in as the first argument. Nothing here is a module of flax, so one set of functions
serves linen and nnx hosts, inside `lax.scan`, `jax.checkpoint` and `vmap` alike.

The suffix stream is [P, T, D], draws folded into the batch as in torch. Weights are cast to the activations they
meet (float32 masters, bfloat16 compute: openpi's habit); gates and the softmax are float32 always.
"""
# ruff: noqa: F722 (jaxtyping's shape strings are not forward references)

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from apt_plugin.errors import AptError
from apt_plugin.fusion import EPS, gate_size
from apt_plugin.recipe import Fusion

Params = dict[str, Any]  # nested; leaves are arrays
Keys = Float[Array, "B G S C"] | Float[Array, "B K G S C"]  # shared by the draws, or each draw its own


class Logits(NamedTuple):
    """Scaled query-key products against one key/value set."""

    scores: Float[Array, "B K H T S"]  # float32
    v: Keys


def scores(q: Float[Array, "B K H T C"], k: Keys) -> Float[Array, "B K H T S"]:
    """float32 whatever the inputs are. (torch rounds to their dtype first: each does what its host does.)"""
    b, draws, heads, t, c = q.shape
    g = k.shape[-3]
    grouped = q.reshape(b, draws, g, heads // g, t, c)
    letters = "bkghtc,bgsc->bkghts" if k.ndim == 4 else "bkghtc,bkgsc->bkghts"
    out = jnp.einsum(letters, grouped, k, preferred_element_type=jnp.float32) * c**-0.5
    return out.reshape(b, draws, heads, t, -1)


def weigh(weights: Float[Array, "B K H T S"], v: Keys) -> Float[Array, "B K H T C"]:
    """float32, from weights rounded to v's dtype."""
    b, draws, heads, t, s = weights.shape
    g = v.shape[-3]
    grouped = weights.astype(v.dtype).reshape(b, draws, g, heads // g, t, s)
    letters = "bkghts,bgsc->bkghtc" if v.ndim == 4 else "bkghts,bkgsc->bkghtc"
    return jnp.einsum(letters, grouped, v, preferred_element_type=jnp.float32).reshape(b, draws, heads, t, -1)


def attend(*parts: tuple[Array, Array, Array]) -> Float[Array, "B K H T C"]:
    """Attention over one or more sets of keys under a single softmax; rows without any key are exactly zero.

    The sets stay apart and the short output is divided instead of the long weights: joined logits, their mask and the
    slices of their softmax, each [B, K, H, T, all S], cost more time than the products (measured on a CPU: the expert's
    forward and backward 0.85x, K=4).

    Args:
        parts: for each set of keys (logits of `scores` [B, K, H, T, S], a mask that broadcasts to them, v as `Keys`).
    """
    # A large finite value instead of -inf: an empty row (the branch of an empty instruction) would be NaN for a
    # moment, harmless until somebody hunts another NaN with jax_debug_nans.
    lowest = jnp.finfo(parts[0][0].dtype).min
    filled = [jnp.where(mask, logits, lowest) for logits, mask, _ in parts]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, (part.max(-1, keepdims=True) for part in filled)))
    weights = [jnp.exp(part - top) for part in filled]
    total = sum(part.sum(-1, keepdims=True) for part in weights)
    share = jnp.where(top > lowest, 1 / total, 0.0)
    out = sum(weigh(part, v) for part, (_, _, v) in zip(weights, parts, strict=True))
    return (out * share).astype(parts[0][2].dtype)


@dataclass(frozen=True)
class Gate:
    """The gate of one fusion. Parameters: w, float32, [1], [H] or [D] by granularity."""

    fusion: Fusion
    heads: int
    width: int

    def init(self) -> Params:
        return {"w": jnp.zeros(gate_size(self.fusion.gate, self.heads, self.width), jnp.float32)}

    def openness(self, params: Params) -> Float[Array, " gate"]:
        # The cast matters where a server loads every leaf as bfloat16 (openpi does): sigmoid stays float32.
        g = jax.nn.sigmoid(params["w"].astype(jnp.float32))
        return g if self.fusion.kind == "interleaved" else 2 * g - 1

    def on_heads(self, params: Params, out: Float[Array, "*any H T C"]) -> Float[Array, "*any H T C"]:
        """Per-head gates act before the output projection."""
        return out * self.openness(params)[:, None, None].astype(out.dtype) if self.fusion.gate == "head" else out

    def on_width(self, params: Params, branch: Float[Array, "*any D"]) -> Float[Array, "*any D"]:
        """Scalar and per-channel gates act behind it."""
        return branch if self.fusion.gate == "head" else branch * self.openness(params).astype(branch.dtype)


def rms_norm(x: Float[Array, "*any D"], weight: Float[Array, " D"]) -> Float[Array, "*any D"]:
    """Gemma's: scale 1 + weight, computed in float32."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + EPS)
    return (y * (1 + weight.astype(jnp.float32))).astype(x.dtype)


def linear(params: Params, x: Float[Array, "*any I"]) -> Float[Array, "*any O"]:
    """x times kernel [I, O] (torch's weight is [O, I]), in x's dtype."""
    return x @ params["kernel"].astype(x.dtype)


def linear_init(key: Array, inputs: int, outputs: int, dtype: DTypeLike) -> Params:
    """The distribution that torch's nn.Linear starts from."""
    bound = inputs**-0.5
    return {"kernel": jax.random.uniform(key, (inputs, outputs), jnp.float32, -bound, bound).astype(dtype)}


@dataclass(frozen=True)
class HostFusion:
    """The host's own pathway to the instruction, gated. Parameters: gate."""

    fusion: Fusion
    width: int
    heads: int
    head_width: int

    @property
    def gate(self) -> Gate:
        return Gate(self.fusion, self.heads, self.width)

    def init(self, key: Array, dtype: DTypeLike = jnp.float32) -> Params:
        del key, dtype  # the gate starts at zero, in float32
        return {"gate": self.gate.init()}

    def instruction_branch(
        self,
        params: Params,
        logits: Logits,
        instruction: Bool[Array, "B S"],
        project: Callable[[Float[Array, "B K H T C"]], Float[Array, "P T D"]],
    ) -> Float[Array, "P T D"]:
        """What the instruction adds behind the layer's own output projection.

        Args:
            logits: the layer's own queries against the prefix.
            project: merges heads and applies the layer's output projection.
        """
        out = attend((logits.scores, instruction[:, None, None, None], logits.v))
        return self.gate.on_width(params["gate"], project(self.gate.on_heads(params["gate"], out)))


@dataclass(frozen=True)
class InterleavedFusion:
    """A new attention layer behind an inherited one, reading the VLM's own keys and values at that depth.

    Parameters: norm, q_proj, o_proj, gate; with a feed-forward also ff_norm, ff_in, ff_out.
    """

    fusion: Fusion
    width: int
    heads: int
    head_width: int

    @property
    def gate(self) -> Gate:
        return Gate(self.fusion, self.heads, self.width)

    def init(self, key: Array, dtype: DTypeLike = jnp.float32) -> Params:
        q_key, ff_key = jax.random.split(key)
        inner = self.heads * self.head_width
        params = {
            "norm": {"weight": jnp.zeros(self.width, dtype)},
            "q_proj": linear_init(q_key, self.width, inner, dtype),
            "o_proj": {"kernel": jnp.zeros((inner, self.width), dtype)},  # closed, and alive
            "gate": self.gate.init(),
        }
        if self.fusion.feed_forward:
            params["ff_norm"] = {"weight": jnp.zeros(self.width, dtype)}
            params["ff_in"] = linear_init(ff_key, self.width, 4 * self.width, dtype)
            params["ff_out"] = {"kernel": jnp.zeros((4 * self.width, self.width), dtype)}
        return params

    def __call__(
        self,
        params: Params,
        x: Float[Array, "P T D"],
        rotary: tuple[Float[Array, "B T C"], Float[Array, "B T C"]],
        k: Float[Array, "B G S C"],
        v: Float[Array, "B G S C"],
        mask: Bool[Array, "B S"],
    ) -> Float[Array, "P T D"]:
        """rotary: cos, sin; mask: the prefix tokens that language may come from, instruction included."""
        b, t = k.shape[0], x.shape[1]
        q = linear(params["q_proj"], rms_norm(x, params["norm"]["weight"]))
        q = q.reshape(b, -1, t, self.heads, self.head_width).swapaxes(2, 3)
        q = rotate(q, rotary).astype(k.dtype)
        out = attend((scores(q, k), mask[:, None, None, None], v))
        out = self.gate.on_heads(params["gate"], out).swapaxes(2, 3).reshape(x.shape[0], t, -1)
        x = x + self.gate.on_width(params["gate"], linear(params["o_proj"], out)).astype(x.dtype)
        if not self.fusion.feed_forward:
            return x
        hidden = jax.nn.gelu(linear(params["ff_in"], rms_norm(x, params["ff_norm"]["weight"])), approximate=True)
        g = self.gate.openness(params["gate"])
        return x + linear(params["ff_out"], hidden) * (g.mean() if self.fusion.gate == "head" else g).astype(x.dtype)


def rotary(
    position: Int[Array, "B T"], head_width: int, theta: float = 10_000.0
) -> tuple[Float[Array, "B T C"], Float[Array, "B T C"]]:
    """cos and sin in float32, laid out as torch hosts' rotary modules give them (openpi has only positions)."""
    half = head_width // 2
    angle = position[..., None] / theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    return jnp.tile(jnp.cos(angle), 2), jnp.tile(jnp.sin(angle), 2)


def rotate(
    x: Float[Array, "B K H T C"], rotary: tuple[Float[Array, "B T C"], Float[Array, "B T C"]]
) -> Float[Array, "B K H T C"]:
    """Rotary embedding, in float32 as openpi has it."""
    cos, sin = (part[:, None, None] for part in rotary)
    first, second = jnp.split(x, 2, -1)
    return (x * cos + jnp.concatenate([-second, first], -1) * sin).astype(x.dtype)


FUSIONS: dict[str, type[HostFusion] | type[InterleavedFusion]] = {
    "host": HostFusion,
    "interleaved": InterleavedFusion,
}


def build_fusion(
    key: Array,
    fusion: Fusion,
    sites: Sequence[int],
    width: int,
    heads: int,
    head_width: int,
    dtype: DTypeLike = jnp.float32,
) -> tuple[HostFusion | InterleavedFusion, Params]:
    """One fusion for all sites, and its parameters stacked: leaves [N, ...].

    Raises:
        AptError: no site.
    """
    if not sites:
        raise AptError("A model without expert layers has no place for fusion.")
    layer = FUSIONS[fusion.kind](fusion, width, heads, head_width)
    return layer, jax.vmap(lambda one: layer.init(one, dtype))(jax.random.split(key, len(sites)))


def spread(params: Params, sites: Sequence[int], depth: int) -> Params:
    """Leaves [N, ...] -> [depth, ...] for a scan over all layers, zero where no fusion is.

    Zeros are a closed fusion of either kind, exactly. The stored tree keeps its N rows, so no parameter is there
    that cannot learn. With `every` > 1 a host saves the unread attention by `lax.cond` on a scanned site flag.
    """
    if list(sites) == list(range(depth)):
        return params
    rows = jnp.asarray(sites)
    return jax.tree.map(lambda leaf: jnp.zeros((depth, *leaf.shape[1:]), leaf.dtype).at[rows].set(leaf), params)


def gate_openings(
    layer: HostFusion | InterleavedFusion, params: Params, sites: Sequence[int]
) -> dict[str, Float[Array, ""]]:
    """layer -> mean |g| of its gate, for logs and reports; arrays, so that a jitted step may return them."""
    openings = jnp.abs(jax.vmap(layer.gate.openness)(params["gate"])).mean(-1)
    return {str(site): openings[i] for i, site in enumerate(sites)}
