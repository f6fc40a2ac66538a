"""`apt/retention` in openpi's JAX trainer; see `apt_plugin.retained`.

The VLM is asked between two compiled steps, by a function of its own: a step would have to carry the first batch along.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from openpi.models import model as _model
from openpi.shared import array_typing as at

from apt_plugin.hosts.openpi.names import INSTRUCTION_FIELD, POSITION_FIELD
from apt_plugin.language import reworded
from apt_plugin.retained import Retained
from apt_plugin.run.replace import Instead, Replacements
from apt_plugin.stages import LIKELIHOOD

NAME = "retention"
PROMPT = ("tokenized_prompt", "tokenized_prompt_mask", INSTRUCTION_FIELD, POSITION_FIELD)


def due(config: Any) -> int:
    """Steps from one asking to the next, of a stage's derived config; 0: never, a frozen VLM keeps everything."""
    model = config.model
    return model.apt_recipe.gap_every if model.apt_stage == LIKELIHOOD and model.vlm_mode != "frozen" else 0


def install(script: Any, config: Any, replacements: Replacements) -> None:
    """Rebind, in `scripts/train.py` alone, the `jax.jit` that compiles its step."""
    if not (every := due(config)):
        return

    def jit(fun: Any, *args: Any, **more: Any) -> Any:
        compiled = jax.jit(fun, *args, **more)
        return asking(compiled, every) if getattr(fun, "func", None) is script.train_step else compiled

    replacements.wrap(script, "jax", lambda host: Instead(host, jit=jit))


def asking(step: Callable, every: int) -> Callable:
    """The compiled `train_step`, whose scalars every so many steps hold the retention before it."""
    retained: Retained[_model.Observation] = Retained()
    known: tuple[int, Callable] | None = None

    def asked(rng: Any, state: Any, batch: Any) -> tuple[Any, dict]:
        nonlocal known
        # The number is read once: to read it at each step would wait for the one before
        number, read = (known[0] + 1, known[1]) if known else (int(state.step), _reader(state.model_def))
        known = number, read
        value = None
        if number % every == 0:
            value = retained.now(
                number, lambda obs: np.asarray(read(state.params, obs)),
                lambda: instructions(batch[0]), lambda other: (batch[0], swapped(batch[0], other)),
            )  # fmt: skip
        new, info = step(rng, state, batch)
        return new, info if value is None else {**info, NAME: np.float32(value)}

    return asked


def _reader(graph: Any) -> Callable:
    """(parameters, observation) -> what the action expert reads, as `listen` pools it: float32 [B, C]."""

    def read(params: Any, obs: _model.Observation) -> Any:
        return nnx.merge(graph, params).apt_prefix(_model.preprocess_observation(None, obs, train=False)).pooled()

    return jax.jit(read)


def instructions(obs: Any) -> list[tuple[int, ...]]:
    """The instruction tokens of each sample, of a batch in either framework."""
    tokens, _, said, _ = _prompt(obs)
    return [tuple(row[mask].tolist()) for row, mask in zip(tokens, said, strict=True)]


def swapped(obs: _model.Observation, other: Sequence[int]) -> _model.Observation:
    """The batch with others' instructions, on the devices that its prompts are on."""
    changed = dict(zip(PROMPT, reworded(*_prompt(obs), other=other), strict=True))
    changed = {name: jax.device_put(part, getattr(obs, name).sharding) for name, part in changed.items()}
    with at.disable_typechecking():
        return dataclasses.replace(obs, **changed)


def _prompt(obs: Any) -> list[np.ndarray]:
    found = (getattr(obs, name) for name in PROMPT)
    return [np.asarray(part.cpu() if hasattr(part, "cpu") else part) for part in found]
