"""What proofs of openpi's JAX and PyTorch models share: made-up observations, the rules of one evaluation.

B batch   T action tokens   A action dimensions
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from openpi.models import model as _model

from apt_plugin.hosts.openpi.config import AptPi0Config
from apt_plugin.hosts.openpi.prompt import AptTokenizePrompt
from apt_plugin.stages import PRIOR

# Host names that some part of the adapter replaces in its own processes; opening a checkpoint must replace none.
_WATCHED = {
    "openpi.training.config": ("cli", "get_config", "TrainConfig"),
    "openpi.training.checkpoints": ("save_state", "restore_state", "initialize_checkpoint_dir"),
    "openpi.models.model": ("restore_params", "preprocess_observation", "Observation"),
    "openpi.models.pi0": ("Pi0", "make_attn_mask"),
    "openpi.transforms": ("TokenizePrompt", "Normalize"),
}


def snapshot() -> dict[tuple[str, str], int]:
    return {(m, n): id(getattr(importlib.import_module(m), n)) for m, names in _WATCHED.items() for n in names}


def changed_names(before: dict[tuple[str, str], int]) -> list[str]:
    return [f"{m}.{n}" for (m, n), was in before.items() if id(getattr(importlib.import_module(m), n)) != was]


def make_batch(
    config: AptPi0Config, tokenizer: Any, instructions: Sequence[str], state_dim: int, state_seed: int, image_seed: int
) -> tuple[Any, jax.Array]:
    """An arranged observation and actions [B, T, A], made up from seeds; the last camera is absent, as in LIBERO."""
    n = len(instructions)
    numbers, pictures = np.random.default_rng(100 + state_seed), np.random.default_rng(image_seed)
    state = numbers.uniform(-1, 1, (n, state_dim)).astype(np.float32)
    tokenize = AptTokenizePrompt(
        tokenizer, config.max_token_len, config.discrete_state_input, config.kept_tokens, require_prompt=False
    )
    rows = [tokenize({"prompt": text, "state": row}) for text, row in zip(instructions, state, strict=True)]
    data = {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0] if name != "state"}
    shape = (n, *_model.IMAGE_RESOLUTION, 3)
    data["image"] = {k: jnp.asarray(pictures.uniform(-1, 1, shape).astype(np.float32)) for k in _model.IMAGE_KEYS}
    present = {k: jnp.full(n, k != _model.IMAGE_KEYS[-1]) for k in _model.IMAGE_KEYS}
    padded = np.pad(state, ((0, 0), (0, config.action_dim - state_dim)))
    obs = _model.Observation.from_dict({**data, "image_mask": present, "state": jnp.asarray(padded)})
    actions = np.random.default_rng(7).uniform(-1, 1, (n, config.action_horizon, config.action_dim))
    return obs, jnp.asarray(actions, jnp.float32)


def run_rules(config: AptPi0Config, closed: bool, one_layout: bool) -> Any:
    """The model's rules for one evaluation: gates as trained or closed, instruction tokens kept or dropped."""
    rules = dataclasses.replace(config.rules(), guidance_scale=1.0, prior_loss=0.0)
    if closed:
        rules = dataclasses.replace(rules, stage=PRIOR)
    isolated = config.apt_recipe.prefix == "isolated"
    bound = config.kept_tokens if isolated and (closed or config.apt_stage == PRIOR) else None
    return dataclasses.replace(rules, kept_tokens=None if one_layout else bound)
