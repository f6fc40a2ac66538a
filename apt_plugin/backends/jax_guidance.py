"""Guidance for a stock JAX policy: v_blank + s (v_words - v_blank), in the host's own sampler.

    B observations   T action tokens   A action dimensions

The sampler runs on a batch of 2 B, words first: an observation beside itself without words, from the same noise.
Behind the last projection both halves become the guided velocity, so they stay one action chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def guided_sampler(model: Any, scale: float) -> Callable[..., jax.Array]:
    """Jitted (rng, instructed, blank, **what the host's sampler takes) -> action chunks [B, T, A].

    Args:
        model: the host's π0 or π0.5; it is not changed.
        scale: s; 1 would be the policy itself.
    """
    graph, state = nnx.split(model)
    sampler = type(model).sample_actions

    def sample(state: Any, rng: Any, instructed: Any, blank: Any, noise: Any = None, **more: Any) -> jax.Array:
        inside = nnx.merge(graph, state)
        last = inside.action_out_proj

        def mixed(hidden: jax.Array) -> jax.Array:
            words, without = jnp.split(last(hidden), 2)
            velocity = without + scale * (words - without)
            return jnp.concatenate([velocity, velocity])

        inside.action_out_proj = mixed
        count = instructed.state.shape[0]
        if noise is None:  # as the host draws it for B
            noise = jax.random.normal(rng, (count, inside.action_horizon, inside.action_dim))
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), instructed, blank)
        return sampler(inside, rng, both, noise=jnp.concatenate([noise, noise]), **more)[:count]

    jitted = jax.jit(sample)
    return lambda rng, instructed, blank, **more: jitted(state, rng, instructed, blank, **more)
