"""The train state of a cached run: the VLM's leaves are empty between checkpoints, and whole in every checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from openpi.shared import array_typing as at

from apt_plugin.hosts.openpi import loading
from apt_plugin.hosts.openpi.cached import needless


def _name(path: Any) -> str:
    return "/".join(map(str, path))


def emptied(params: nnx.State, kind: str) -> nnx.State:
    """`params` (arrays or shapes) with an empty leaf in the place of each that a cached step leaves alone."""

    def leaf(path: Any, variable: Any) -> Any:
        if not needless(_name(path), kind):
            return variable
        dtype = variable.value.dtype
        shapes = isinstance(variable.value, jax.ShapeDtypeStruct)
        return variable.replace(jax.ShapeDtypeStruct((0,), dtype) if shapes else jnp.zeros(0, dtype))

    return params.map(leaf)


def replicated(sharding: Any, kind: str, mesh: Any) -> Any:
    """The host's sharding of a train state whose VLM is empty: an empty leaf cannot be split."""
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def of(params: nnx.State | None) -> nnx.State | None:
        if params is None:
            return None
        return params.map(lambda path, leaf: leaf.replace(whole) if needless(_name(path), kind) else leaf)

    with at.disable_typechecking():  # shardings stand where openpi checks for arrays
        return dataclasses.replace(sharding, params=of(sharding.params), ema_params=of(sharding.ema_params))


class Outline:
    """Takes the VLM out of a train state and puts it back for a checkpoint, from where the run took it."""

    def __init__(self, config: Any, kind: str):
        self.loader, self.kind = config.weight_loader, kind
        self.shapes: dict[str, jax.ShapeDtypeStruct] = {}
        self.kept: dict[str, np.ndarray] = {}  # what no loader gives: a VLM that started at random

    def drop(self, state: Any) -> Any:
        """The state without the VLM."""
        params = loading.flat(state.params.to_pure_dict())
        self.shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in params.items()}
        given = loading.flat(self.loader.load(loading.unflat(self.shapes)))
        mine = [name for name in params if needless(name, self.kind)]
        self.kept = {n: jax.device_get(params[n]) for n in mine if isinstance(given[n], jax.ShapeDtypeStruct)}
        del given
        ema = state.ema_params
        return dataclasses.replace(
            state,
            params=emptied(state.params, self.kind),
            ema_params=None if ema is None else emptied(ema, self.kind),
        )

    def fill(self, state: Any) -> Any:
        """The whole state again; the VLM in the dtype that the host froze it in."""
        given = loading.flat(self.loader.load(loading.unflat(self.shapes))) | self.kept

        def leaf(path: Any, variable: Any) -> Any:
            name = _name(path)
            if not needless(name, self.kind):
                return variable
            return variable.replace(np.asarray(given[name]).astype(self.shapes[name].dtype))

        params = state.params.map(leaf)
        ema = state.ema_params
        return dataclasses.replace(state, params=params, ema_params=None if ema is None else ema.map(leaf))
