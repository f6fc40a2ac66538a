"""A warm-up in openpi's JAX trainer, by `--recipe warmup` or in Stage 2; see `apt_plugin.run.warmup`.

One compiled step serves both halves: it computes the VLM's gradients in either, and throws them away in the first. So a
step of the warm-up costs what any step of the training costs.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from apt_plugin.hosts.openpi.config import check_model, trained_by
from apt_plugin.hosts.openpi.optim import in_vlm, path_of
from apt_plugin.run import warmup
from apt_plugin.run.replace import Replacements

logger = logging.getLogger(__name__)

HOW = "a config that trains it (pi05_libero, or a LoRA variant)"


def check(config: Any, torch: bool) -> None:
    """
    Args:
        torch: whether it is the PyTorch trainer's.

    Raises:
        AptError: a model without an action expert; a config that trains nothing of its VLM.
    """
    check_model(config.model)
    if trained_by(config.model, config.freeze_filter, torch).mode == "frozen":
        raise warmup.nothing_trains(HOW)


def in_stage(config: Any) -> int:
    """How many steps of a stage's derived config the VLM is frozen for before it trains."""
    total = config.num_train_steps
    frozen = warmup.in_stage(config.model.apt_recipe, config.model.vlm_mode, total)
    for step in (0, frozen) if frozen else ():
        logger.info(warmup.told(step, frozen, total))
    return frozen


def install(script: Any, config: Any, share: float, replacements: Replacements) -> None:
    """Rebind the step of `scripts/train.py`.

    Raises:
        AptError: too few steps.
    """
    frozen = warmup.frozen_steps(share, config.num_train_steps, "--num-train-steps")
    replacements.wrap(script, "train_step", lambda host: held(host, frozen))
    for step in (0, frozen):
        logger.info(warmup.told(step, frozen, config.num_train_steps))


def held(host: Any, frozen: int) -> Any:
    """The host's `train_step`, after which the VLM is what it was until `frozen` steps are done.

    Its gradients are zero until then: clipping does not see them, and its moments stay zero. The trees of state and
    optimizer are the host's, so that its checkpoints are.
    """

    def train_step(config: Any, rng: Any, state: Any, batch: Any) -> tuple[Any, dict]:
        trains = state.step >= frozen

        def update(grads: Any, inner: Any, params: Any = None) -> Any:
            return state.tx.update(_but_the_vlm(grads, trains), inner, params)

        gated = optax.GradientTransformation(state.tx.init, update)
        new, info = host(config, rng, dataclasses.replace(state, tx=gated), batch)
        new = dataclasses.replace(new, tx=state.tx, params=_kept(state.params, new.params, trains))
        if new.ema_params is not None:
            new = dataclasses.replace(new, ema_params=_kept(state.ema_params, new.ema_params, trains))
        return new, info

    return train_step


def _but_the_vlm(tree: Any, trains: Any) -> Any:
    def leaf(keys: Any, value: Any) -> Any:
        return jnp.where(trains, value, jnp.zeros_like(value)) if in_vlm(path_of(keys)) else value

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _kept(before: nnx.State, after: nnx.State, trains: Any) -> nnx.State:
    """`after`, with the VLM of `before` where it does not train yet."""
    old = before.flat_state()

    def leaf(path: Any, value: Any) -> Any:
        if not in_vlm("/".join(map(str, path))):
            return value
        return value.replace(jnp.where(trains, value.value, old[path].value))

    return after.map(leaf)
