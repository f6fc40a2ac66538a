"""`apt-plugin cache build|verify` in openpi: the run's own data, transforms and weights, features instead of steps.

B batch   S prefix tokens   N VLM layers   G key/value heads   C head width   M cameras   I tokens of an image
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from openpi.models import model as _model
from openpi.shared import array_typing as at
from openpi.training import data_loader, sharding

from apt_plugin.cache import Field, Key, encoder, request
from apt_plugin.errors import AptError, choose
from apt_plugin.hosts.openpi.cached_data import frames, raw_of, sources, without_images, words_in
from apt_plugin.hosts.openpi.cached_stamp import augmentation, stamp_of
from apt_plugin.hosts.openpi.records import vlm_digest

SAFE = {"float32": "F32", "bfloat16": "BF16", "bool": "BOOL", "int32": "I32"}
KINDS = ("auto", "kv", "vision")


def to_numpy(array: Any) -> np.ndarray:
    """BF16 travels as uint16."""
    array = np.ascontiguousarray(array)
    return array.view("<u2") if array.dtype.name == "bfloat16" else array


class Encoder:
    """One run's model and data as a source of cache entries."""

    def __init__(self, script: Any, config: Any):
        """Raises AptError: nothing to cache, or data whose frames have no numbers."""
        model = config.model
        request.check_wanted(model.apt_recipe, model.apt_stage)
        choose("cache_kind", model.apt_recipe.cache_kind, KINDS)
        self.config, self.views = config, request.views_of(augmentation(model))
        self.folder, self.stage = request.folder_of(model.apt_recipe, model.apt_stage), model.apt_stage
        self.data = config.data.create(config.assets_dirs, model)
        if self.data.rlds_data_dir is not None:
            raise AptError("A cache finds frames by their number, which RLDS streams have not. Drop --apt.cache.")
        self.dataset = self._open()
        for source in sources(self.dataset):
            raw_of(source)
        # Keys and random numbers as the host's main makes them: a VLM that no loader gives starts from these.
        _, init = jax.random.split(jax.random.key(config.seed))
        state, _ = script.init_train_state(config, init, sharding.make_mesh(1), resume=False)
        self.digest = vlm_digest(state.params.to_pure_dict())
        self.graph, self.params = state.model_def, state.params
        del state
        self.kind = self._kind()
        self.places = self._places(self.kind)

    def _open(self) -> Any:
        config = self.config
        raw = data_loader.create_torch_dataset(self.data, config.model.action_horizon, config.model)
        return data_loader.transform_dataset(raw, self.data)

    def _kind(self) -> str:
        asked = self.config.model.apt_recipe.cache_kind
        if asked != "auto":
            return asked
        count = max(self.views, 1) * sum(len(source) for source in sources(self.dataset))
        self.places = {Key(number): (source, index) for number, source, index in frames(self.dataset)}
        return encoder.cheapest(
            self.folder, ("kv", "vision"), lambda kind: ([Key(0)] * count, self._encode([Key(0)], kind))
        )

    def _places(self, kind: str) -> dict[Key, tuple[Any, int]]:
        """Every key -> (source, index). Words are read off the run's own samples, images left out."""
        spoken: dict[int, bytes] = {}
        if request.keyed_by_words(self.stage, kind):
            silent = self._open()
            for source in sources(silent):
                without_images(source)
            spoken = {number: words_in(source[index]) for number, source, index in frames(silent)}
        return {
            Key(number, view, spoken.get(number, b"")): (source, index)
            for number, source, index in frames(self.dataset)
            for view in range(max(self.views, 1))
        }

    # -- computing ----------------------------------------------------------------------------------------

    @functools.cached_property
    def _programs(self) -> dict[str, Any]:
        def ready(obs: Any, seeds: jax.Array) -> Any:
            if not self.views:
                return _model.preprocess_observation(None, obs, train=False)

            def one(obs: Any, seed: jax.Array) -> Any:  # each frame by a key of its own, whoever computes it
                alone = jax.tree.map(lambda x: x[None], obs)
                return jax.tree.map(
                    lambda x: x[0], _model.preprocess_observation(jax.random.key(seed), alone, train=True)
                )

            return jax.vmap(one)(obs, seeds)

        def prefix(params: Any, obs: Any, seeds: jax.Array) -> Any:
            return nnx.merge(self.graph, params).apt_prefix(ready(obs, seeds))

        def images(params: Any, obs: Any, seeds: jax.Array) -> Any:
            model, obs = nnx.merge(self.graph, params), ready(obs, seeds)
            tokens = [model.PaliGemma.img(image, train=False)[0] for image in obs.images.values()]
            dtype = jnp.dtype(self.config.model.dtype)
            return jnp.stack(tokens, 1).astype(dtype), jnp.stack(list(obs.image_masks.values()), 1)

        return {"kv": jax.jit(prefix), "vision": jax.jit(images)}

    def _encode(self, keys: Sequence[Key], kind: str) -> list[dict[str, np.ndarray]]:
        samples = [self.places[key][0][self.places[key][1]] for key in keys]
        batch = jax.tree.map(lambda *rows: np.stack([np.asarray(row) for row in rows]), *samples)
        seeds = jnp.asarray([encoder.seed_of(key) % (1 << 31) for key in keys])
        with at.disable_typechecking():
            obs = jax.tree.map(jnp.asarray, _model.Observation.from_dict(batch))
            out = jax.device_get(self._programs[kind](self.params, obs, seeds))
        if kind == "vision":
            return [{"tokens": to_numpy(tokens[there])} for tokens, there in zip(*out, strict=True)]
        words = request.keyed_by_words(self.stage, kind)
        entries = []
        for b in range(len(keys)):
            spoken = out.spoken[b] if words else np.zeros_like(out.spoken[b])
            read = out.kept[b] | spoken
            k, v = (part[:, b].transpose(2, 0, 1, 3)[read] for part in (out.k, out.v))  # [S, N, G, C]
            offset = np.asarray(out.suffix_offset[b], np.int32).reshape(1)
            entries.append({"k": to_numpy(k), "v": to_numpy(v), "spoken": spoken[read], "offset": offset})
        return entries

    def compute(self, keys: Sequence[Key]) -> list[dict[str, np.ndarray]]:
        return self._encode(keys, self.kind)

    def fields(self) -> dict[str, Field]:
        entry, dtype = self.compute(list(self.places)[:1])[0], SAFE[self.config.model.dtype]
        if self.kind == "vision":
            return {"tokens": Field(dtype, entry["tokens"].shape[1:])}
        tail = Field(dtype, entry["k"].shape[1:])
        return {"k": tail, "v": tail, "spoken": Field("BOOL"), "offset": Field("I32")}

    def stamp(self) -> dict[str, Any]:
        return stamp_of(self.config, self.data, self.dataset, self.digest, self.kind)
