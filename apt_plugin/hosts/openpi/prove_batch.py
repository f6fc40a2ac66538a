"""What proofs of openpi's JAX and PyTorch models share: made-up observations, the rules of one evaluation.

B batch   T action tokens   A action dimensions
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from openpi import transforms as _transforms
from openpi.models import model as _model
from openpi.models import pi0 as _pi0
from openpi.training import checkpoints as _checkpoints
from openpi.training import config as _config

from apt_plugin.hosts.openpi.config import AptPi0Config
from apt_plugin.hosts.openpi.prompt import AptTokenizePrompt, kept_bound
from apt_plugin.stages import PRIOR

WORDS = 64  # tokens that the proofs' longest instruction may take

# Host names that some part of the adapter replaces in its own processes; opening a checkpoint must replace none.
WATCHED = {
    _config: ("cli", "get_config", "TrainConfig"),
    _checkpoints: ("save_state", "restore_state", "initialize_checkpoint_dir"),
    _model: ("restore_params", "preprocess_observation", "Observation"),
    _pi0: ("Pi0", "make_attn_mask"),
    _transforms: ("TokenizePrompt", "Normalize"),
}


def make_batch(
    config: AptPi0Config, tokenizer: Any, instructions: Sequence[str], state_dim: int, state_seed: int, image_seed: int
) -> tuple[Any, jax.Array]:
    """An arranged observation and actions [B, T, A], made up from seeds; the last camera is absent, as in LIBERO."""
    n = len(instructions)
    state_dim = state_dim or config.action_dim  # fake data has no statistics, and a state as wide as the actions
    numbers, pictures = np.random.default_rng(100 + state_seed), np.random.default_rng(image_seed)
    state = numbers.uniform(-1, 1, (n, state_dim)).astype(np.float32)
    tokenize = AptTokenizePrompt(
        tokenizer,
        config.max_token_len,
        config.pi05 and config.discrete_state_input,  # π0 has a state token, whatever the flag says
        config.kept_tokens,
        require_prompt=False,
    )
    rows = [tokenize({"prompt": text, "state": row}) for text, row in zip(instructions, state, strict=True)]
    data = {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0] if name != "state"}
    shape = (n, *_model.IMAGE_RESOLUTION, 3)
    data["image"] = {k: jnp.asarray(pictures.uniform(-1, 1, shape).astype(np.float32)) for k in _model.IMAGE_KEYS}
    present = {k: jnp.full(n, k != _model.IMAGE_KEYS[-1]) for k in _model.IMAGE_KEYS}
    padded = np.pad(state, ((0, 0), (0, max(0, config.action_dim - state_dim))))
    obs = _model.Observation.from_dict({**data, "image_mask": present, "state": jnp.asarray(padded)})
    actions = np.random.default_rng(7).uniform(-1, 1, (n, config.action_horizon, config.action_dim))
    return obs, jnp.asarray(actions, jnp.float32)


def roomy(config: AptPi0Config) -> AptPi0Config:
    """The config with room for the proofs' own instructions: a token limit bounds memory and no parameter."""
    room = WORDS + kept_bound(10**6, config.action_dim, config.discrete_state_input)
    return dataclasses.replace(config, max_token_len=max(config.max_token_len, room))


def fed(config: AptPi0Config, obs: Any, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What of a state and of images reaches this policy (`proofs.Outcome.fed`).

    Args:
        obs: a JAX observation of `make_batch`.
        features: camera -> the image tower's output. An image head that nothing has trained yet gives a constant.
    """
    seen = {"images": np.stack([v for k, v in sorted(features.items()) if bool(np.asarray(obs.image_masks[k]).any())])}
    if not config.pi05:
        seen["state"] = np.asarray(obs.state)
    elif config.discrete_state_input:  # in the prompt, among the kept tokens
        kept = np.asarray(obs.tokenized_prompt_mask) & ~np.asarray(obs.token_loss_mask)
        seen["state"] = np.where(kept, np.asarray(obs.tokenized_prompt), -1)
    return seen


def run_rules(config: AptPi0Config, closed: bool, one_layout: bool) -> Any:
    """The model's rules for one evaluation: gates as trained or closed, instruction tokens kept or dropped."""
    rules = dataclasses.replace(config.rules(), guidance_scale=1.0, prior_loss=0.0)
    if closed:
        rules = dataclasses.replace(rules, stage=PRIOR)
    isolated = config.apt_recipe.prefix == "isolated"
    bound = config.kept_tokens if isolated and (closed or config.apt_stage == PRIOR) else None
    return dataclasses.replace(rules, kept_tokens=None if one_layout else bound)
