"""The two passes of a π-style model in JAX: prefix to per-layer keys and values, then expert on them.

    B batch   K noise draws   T suffix tokens   S prefix tokens   D width   H heads   G key/value heads   C head width
    N VLM (and expert) layers   P = B*K

The prefix never attends to the suffix, so two passes equal openpi's joint pass; but the joint pass concatenates
both streams, so AD sees the prefix as depending on the suffix and recomputes and differentiates a frozen VLM.
Layer arithmetic is the host's own, handed in as a `Stream`; only the order of calls is ours. Parameters come in as
the host's stacked trees, leaves [N, ...], and are scanned over depth.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from apt_plugin.backends.jax_fusion import (
    HostFusion,
    InterleavedFusion,
    Logits,
    Params,
    attend,
    rotary,
    rotate,
    scores,
)
from apt_plugin.language import PrefixRules


class Stream(Protocol):
    """The host's layer functions for one of its two streams, on the parameters of one layer."""

    head_width: int

    def norm(self, params: Any, which: str, x: Array, cond: Array | None) -> tuple[Array, Array | None]:
        """which: "attention" or "ffw"; x [P, T, D] -> (normed, residual gate of adaRMS or None)."""
        ...

    def queries(self, params: Any, x: Array) -> Array:
        """[P, T, D] -> [P, T, H, C]"""
        ...

    def keys_values(self, params: Any, x: Array) -> tuple[Array, Array]:
        """[P, T, D] -> two of [P, T, G, C]"""
        ...

    def out(self, params: Any, x: Array) -> Array:
        """[P, T, H, C] -> [P, T, D]"""
        ...

    def feed_forward(self, params: Any, x: Array) -> Array: ...

    def constrain(self, x: Array) -> Array:
        """The host's sharding constraint on activations."""
        ...


class PrefixCache(NamedTuple):
    """What the expert may read of the prefix."""

    k: Array  # [N, B, G, S, C], RoPE applied
    v: Array  # [N, B, G, S, C]
    kept: Array  # [B, S] bool: what inherited layers read
    spoken: Array  # [B, S] bool: valid instruction tokens
    suffix_offset: Array  # [B] int

    def blanked(self) -> PrefixCache:
        """The same prefix under an empty instruction. Exact on an isolated prefix: kept keys do not know it."""
        return self._replace(spoken=jnp.zeros_like(self.spoken))

    def pooled(self) -> Array:
        """Values of every layer, mean over valid tokens, side by side: float32 [B, N * G * C]."""
        valid = (self.kept | self.spoken).astype(jnp.float32)
        weight = valid / valid.sum(-1, keepdims=True).clip(1)
        values = jnp.einsum("nbgsc,bs->bngc", self.v.astype(jnp.float32), weight, precision="highest")
        return values.reshape(len(values), -1)


class Suffix(NamedTuple):
    """The action expert's input: [state token,] noisy action chunk, for K draws per sample."""

    x: Array  # [P, T, D]
    cond: Array | None  # [P, D]: π0.5's time embedding for adaRMS
    attend: Array  # [T, T] bool, every row alike
    position: Array  # [B, T] int


def _residual(x: Array, branch: Array, gate: Array | None) -> Array:
    return x + branch if gate is None else x + branch * gate  # adaRMS gates are π0.5's own, not ours


def _heads(x: Array, draws: int) -> Array:
    """[P, T, H, C] -> [B, K, H, T, C]"""
    return x.reshape(-1, draws, *x.shape[1:]).swapaxes(2, 3)


def _unheads(x: Array) -> Array:
    """[B, K, H, T, C] -> [P, T, H, C]"""
    return x.swapaxes(2, 3).reshape(-1, x.shape[3], x.shape[2], x.shape[4])


def _feed_forward(stream: Stream, params: Any, x: Array, cond: Array | None) -> Array:
    hidden, gate = stream.norm(params, "ffw", x, cond)
    return stream.constrain(_residual(x, stream.feed_forward(params, stream.constrain(hidden)), gate))


def prefix_pass(stream: Stream, layers: Any, x: Array, rules: PrefixRules, trains: bool) -> tuple[Array, Array]:
    """Run the VLM's language model over the prefix and keep every layer's keys and values.

    Args:
        layers: the VLM's stacked layer parameters, leaves [N, ...].
        x: [B, S, D] prefix embeddings.
        trains: whether gradients reach the VLM. Layers are then recomputed in the backward pass; otherwise no
            gradient is recorded at all, and the last layer's attention and feed-forward are skipped: nobody
            reads what they compute.

    Returns:
        (k, v), each [N, B, G, S, C].
    """
    turn = rotary(rules.position, stream.head_width)
    mask = rules.attend[:, None, None]  # [B, 1, 1, S, S]

    def project(x: Array, p: Any) -> tuple[Array, Array, Array]:
        h = stream.constrain(stream.norm(p, "attention", stream.constrain(x), None)[0])
        k, v = stream.keys_values(p, h)
        return h, rotate(_heads(k, 1), turn)[:, 0], _heads(v, 1)[:, 0]

    def layer(x: Array, p: Any) -> tuple[Array, tuple[Array, Array]]:
        h, k, v = project(x, p)
        q = rotate(_heads(stream.queries(p, h), 1), turn)
        out = attend((scores(q, k), mask, v))
        x = stream.constrain(x + stream.out(p, _unheads(out)))
        return _feed_forward(stream, p, x, None), (k, v)

    if trains:
        body = jax.checkpoint(layer, prevent_cse=False, policy=jax.checkpoint_policies.nothing_saveable)
        return jax.lax.scan(body, x, layers)[1]

    # Parameters are picked by index inside the loop, not sliced in front of it: a slice of the stack without its
    # last layer would be a second copy of the VLM in memory.
    x, layers = jax.lax.stop_gradient((x, layers))
    depth = jax.tree.leaves(layers)[0].shape[0]

    def pick(index: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), layers)

    x, (k, v) = jax.lax.scan(lambda x, index: layer(x, pick(index)), x, jnp.arange(depth - 1))
    _, last_k, last_v = project(x, pick(depth - 1))
    return jnp.concatenate([k, last_k[None]]), jnp.concatenate([v, last_v[None]])


def expert_pass(
    stream: Stream,
    layers: Any,
    suffix: Suffix,
    cache: PrefixCache,
    fusion: HostFusion | InterleavedFusion | None = None,
    fusion_params: Params | None = None,
) -> Array:
    """Run the action expert on a prefix cache, layers recomputed in the backward pass as in the host.

    Args:
        layers: the expert's stacked layer parameters, leaves [N, ...].
        fusion, fusion_params: Stage 2's, with leaves [N, ...] (`jax_fusion.spread`); None is the prior, which is
            what closed gates compute.

    Returns:
        [P, T, D] before the final norm.
    """
    b = cache.kept.shape[0]
    draws, cond = suffix.x.shape[0] // b, suffix.cond
    turn = rotary(suffix.position, stream.head_width)
    kept = cache.kept[:, None, None, None]  # [B, 1, 1, 1, S]
    among = suffix.attend[None, None, None]  # [1, 1, 1, T, T]

    def layer(x: Array, scanned: tuple) -> tuple[Array, None]:
        p, prefix_k, prefix_v, fp = scanned
        h, gate = stream.norm(p, "attention", stream.constrain(x), cond)
        h = stream.constrain(h)
        k, v = stream.keys_values(p, h)
        q, k, v = rotate(_heads(stream.queries(p, h), draws), turn), rotate(_heads(k, draws), turn), _heads(v, draws)
        on_prefix, on_suffix = scores(q, prefix_k), scores(q, k)
        out = attend((on_prefix, kept, prefix_v), (on_suffix, among, v))

        def project(out: Array) -> Array:
            return stream.out(p, _unheads(out))

        branch = project(out)
        if isinstance(fusion, HostFusion):
            branch = branch + fusion.instruction_branch(fp, Logits(on_prefix, prefix_v), cache.spoken, project)
        x = _feed_forward(stream, p, stream.constrain(_residual(x, branch, gate)), cond)
        if isinstance(fusion, InterleavedFusion):
            x = fusion(fp, x, turn, prefix_k, prefix_v, cache.kept | cache.spoken)
        return x, None

    body = jax.checkpoint(layer, prevent_cse=False, policy=jax.checkpoint_policies.nothing_saveable)
    return jax.lax.scan(body, suffix.x, (layers, cache.k, cache.v, fusion_params))[0]
