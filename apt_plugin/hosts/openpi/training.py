"""What a process under the launcher adds to openpi's JAX trainer, without a copy of its loop.

Names that `scripts/train.py` looks up when it runs are rebound for the life of that process, each logged:
parameters that are frozen stay out of the EMA, gates and the instruction gap are logged, a non-finite loss stops the
run, and a checkpoint carries its record.
"""

from __future__ import annotations

import dataclasses
import logging
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from apt_plugin import stages
from apt_plugin.backends import jax_fusion
from apt_plugin.hosts.openpi import order, retained, warmup
from apt_plugin.hosts.openpi.loading import check_params
from apt_plugin.hosts.openpi.mark import marked, unmarked_state
from apt_plugin.hosts.openpi.records import Run, vlm_digest
from apt_plugin.run.replace import Replacements
from apt_plugin.stages import LIKELIHOOD
from apt_plugin.tracked import tracked

logger = logging.getLogger(__name__)

REPLACED = Replacements()
GAP = "blank_gap_train"
SOME = (GAP, retained.NAME)  # scalars that not every step has: left out, or NaN


def mix_data(config: Any) -> None:
    """Rebind the data loader's functions where the run mixes data."""
    from apt_plugin.hosts.openpi import mix

    if config.model.apt_stage == LIKELIHOOD and config.model.apt_recipe.mix.share > 0:
        mix.install(REPLACED)


def install(script: Any, run: Run) -> None:
    """Rebind the seams of `scripts/train.py` for one run."""
    from openpi.training import checkpoints

    mix_data(run.config)
    order.install(run.config, REPLACED)
    if run.cached is not None:
        run.cached.install(REPLACED)
    retained.install(script, run.config, REPLACED)
    frozen = warmup.in_stage(run.config)
    REPLACED.wrap(script, "train_step", lambda host: _step(warmup.held(host, frozen) if frozen else host))
    REPLACED.wrap(script, "init_train_state", lambda host: _start(host, run))
    REPLACED.wrap(
        script, "common_utils", lambda host: types.SimpleNamespace(stack_forest=_stacked(host.stack_forest, run))
    )
    REPLACED.wrap(checkpoints, "save_state", lambda host: _save(host, run))
    REPLACED.wrap(checkpoints, "restore_state", lambda host: _resumed(host, run))


def _step(host: Any) -> Any:
    def train_step(config: Any, rng: Any, state: Any, batch: Any) -> tuple[Any, dict]:
        new, info = host(config, rng, state, batch)
        if new.ema_params is not None:
            new = dataclasses.replace(new, ema_params=unaveraged(new.ema_params, new.params, config.freeze_filter))
        if config.model.apt_stage == LIKELIHOOD:
            info = info | _listening(config, rng, state, batch, new.params)
        return new, info

    return train_step


def unaveraged(ema: nnx.State, params: nnx.State, frozen: Any) -> nnx.State:
    """`ema` with frozen leaves as they are in `params`.

    The host averages them too, in their bfloat16, where 0.99 and 0.01 sum to 0.998: a frozen VLM shrinks by up to
    14 %, and it is the EMA that is saved.
    """
    held = params.filter(frozen).flat_state()
    return ema.map(lambda path, leaf: held.get(path, leaf))


def _listening(config: Any, rng: Any, state: Any, batch: Any, params: nnx.State) -> dict[str, Any]:
    """Gate openings, and every so many steps how much the loss suffers from a blanked instruction."""
    model = nnx.merge(state.model_def, state.params)
    fusion, _ = model._fusion()
    pure = params.to_pure_dict()["apt_fusion"]
    sites = [str(i) for i in range(jax.tree.leaves(pure)[0].shape[0])]
    gates = jnp.stack(list(jax_fusion.gate_openings(fusion, pure, sites).values()))
    info = {"gate_mean": gates.mean(), "gate_max": gates.max()}
    every = config.model.apt_recipe.gap_every
    if every > 0:
        observation, actions = batch
        key = jax.random.fold_in(rng, state.step)
        info[GAP] = jax.lax.cond(
            state.step % every == 0,
            lambda: model.instruction_gap(key, observation, actions).astype(jnp.float32),
            lambda: jnp.float32(jnp.nan),
        )
    return info


def _start(host: Any, run: Run) -> Any:
    def init_train_state(config: Any, init_rng: Any, mesh: Any, *, resume: bool) -> tuple[Any, Any]:
        state, sharding = host(config, init_rng, mesh, resume=resume)
        if not resume:
            run.state.begin(vlm_digest(state.params.to_pure_dict(), run.state.vlm_mode))
            total = sum(leaf.size for leaf in jax.tree.leaves(state.params))
            learns = sum(leaf.size for leaf in jax.tree.leaves(state.params.filter(config.trainable_filter)))
            logger.info(
                "APT: Stage %d trains %d of %d parameters (%.1f %%); VLM %s.",
                config.model.apt_stage, learns, total, 100 * learns / total, str(run.state.vlm_start)[:12],
            )  # fmt: skip
        if run.cached is not None:
            return run.cached.begin(state, sharding, mesh, None if resume else run.state.vlm_start)
        return state, sharding

    return init_train_state


def _stacked(host: Any, run: Run) -> Any:
    """The host hands over all steps since its last log line: the place to keep the curve and to stop."""

    def stack_forest(infos: list[dict]) -> Any:
        some: dict[str, list[float]] = {}
        for info in jax.device_get(infos):
            scalars = {name: float(np.asarray(value)) for name, value in info.items()}
            scalars = {name: v for name, v in scalars.items() if name not in SOME or not np.isnan(v)}
            for name in scalars.keys() & SOME:
                some.setdefault(name, []).append(scalars[name])
            stages.check_finite({n: v for n, v in scalars.items() if n in ("loss", "grad_norm")}, run.state.step)
            run.state.curve.add(run.state.step, scalars)
            run.state.step += 1
        forest = host([{n: v for n, v in info.items() if n not in SOME} for info in infos])
        return tracked(forest | {name: jnp.asarray(values) for name, values in some.items()})

    return stack_forest


class _Recording:
    """The host's checkpoint manager, whose `assets` item also holds our record, and whose parameters are marked."""

    def __init__(self, manager: Any, write: Any = None):
        self._manager, self._write = manager, write

    def save(self, step: int, items: dict[str, Any]) -> Any:
        host = items["assets"]

        def assets(directory: Any) -> None:
            host(directory)
            self._write(Path(directory))

        params = {"params": marked(items["params"]["params"])}
        return self._manager.save(step, {**items, "assets": assets, "params": params})

    def restore(self, step: int, items: dict[str, Any]) -> Any:
        params = {"params": marked(items["params"]["params"])}
        restored = self._manager.restore(step, items={**items, "params": params})
        return {**restored, "params": {"params": unmarked_state(restored["params"]["params"])}}


def _save(host: Any, run: Run) -> Any:
    def save_state(manager: Any, state: Any, data_loader: Any, step: int) -> None:
        data = data_loader.data_config()
        run.read(data)
        if run.cached is not None:
            state = run.cached.outline.fill(state)
        params = state.params if state.ema_params is None else state.ema_params
        write = run.writer(params.to_pure_dict(), int(state.step), data.asset_id)
        host(_Recording(manager, write), state, data_loader, step)

    return save_state


def _resumed(host: Any, run: Run) -> Any:
    def restore_state(manager: Any, state: Any, data_loader: Any, step: int | None = None) -> Any:
        chosen = manager.latest_step() if step is None else step
        folder = Path(manager.directory) / str(chosen)
        record = run.resume(folder / "assets")
        state = host(_Recording(manager), state, data_loader, step)
        run.state.step = int(state.step)
        params = state.params if state.ema_params is None else state.ema_params
        check_params(params.to_pure_dict(), record, folder)
        encoder = run.check(params.to_pure_dict())
        return state if run.cached is None else run.cached.resumed(state, encoder)

    return restore_state
