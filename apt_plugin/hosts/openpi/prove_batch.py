"""What proofs of openpi's JAX and PyTorch models share: made-up observations, the rules of one evaluation.

B batch   T action tokens   A action dimensions
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from openpi import transforms as _transforms
from openpi.models import model as _model
from openpi.models import pi0 as _pi0
from openpi.models import pi0_config
from openpi.training import checkpoints as _checkpoints
from openpi.training import config as _config

from apt_plugin.hosts.openpi.config import AptPi0Config
from apt_plugin.hosts.openpi.prompt import AptTokenizePrompt, kept_bound
from apt_plugin.proofs import Subject
from apt_plugin.run.child import refusal
from apt_plugin.run.replace import watch
from apt_plugin.stages import PRIOR
from apt_plugin.vlm import mode_of

WORDS = 64  # tokens that the proofs' longest instruction may take

# Host names that some part of the adapter replaces in its own processes; opening a checkpoint must replace none.
WATCHED = {
    _config: ("cli", "get_config", "TrainConfig"),
    _checkpoints: ("save_state", "restore_state", "initialize_checkpoint_dir"),
    _model: ("restore_params", "preprocess_observation", "Observation"),
    _pi0: ("Pi0", "make_attn_mask"),
    _transforms: ("TokenizePrompt", "Normalize"),
}


class Opened(Subject):
    """What the proofs of both trainers' models hold alike."""

    def __init__(
        self, model: Any, config: AptPi0Config, tokenizer: Any, state_dim: int, folder: Path | None,
        changed: Callable[[], list[str]] | None = None,
    ):  # fmt: skip
        """
        Args:
            state_dim: numbers of a state; 0 where the data have no statistics.
            folder: the checkpoint; None for a model that was never written.
            changed: names of the host that are not what they were (`run.replace.watch`).
        """
        self.model, self.config, self.tokenizer, self.folder = model, roomy(config), tokenizer, folder
        self.state_dim = state_dim
        self.stage, self.prefix = config.apt_stage, config.apt_recipe.prefix
        self.trains_vlm = mode_of(config.apt_recipe, self.stage) == "full"
        self.rounding = float(jnp.finfo(config.dtype).eps)
        self._changed = watch(WATCHED) if changed is None else changed

    def replaced_names(self) -> list[str]:
        return self._changed()

    def second(self, model: Any, config: AptPi0Config) -> Self:
        """Stage 2's model, opened as this one was."""
        return type(self)(model, config, self.tokenizer, self.state_dim, self.folder, self._changed)

    def batch(self, instructions: Sequence[str], state_seed: int = 0, image_seed: int = 0) -> tuple[Any, jax.Array]:
        return make_batch(self.config, self.tokenizer, instructions, self.state_dim, state_seed, image_seed)

    def stock_config(self) -> pi0_config.Pi0Config:
        """The host's own config of this model."""
        names = [f.name for f in dataclasses.fields(pi0_config.Pi0Config)]
        return pi0_config.Pi0Config(**{name: getattr(self.config, name) for name in names})

    def refused_without_plugin(self) -> tuple[bool, str]:
        if self.folder is None:
            return False, "no checkpoint on disk: nothing that could be refused"
        return refusal(*self.stock_program(self.folder))

    def stock_program(self, folder: Path) -> tuple[str, ...]:
        """A program that opens the checkpoint as a stock host does, and its arguments."""
        raise NotImplementedError


def draws(actions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Fixed noise [B, 2, T, A] and time [B, 2] for actions [B, T, A], float32."""
    fixed, n = np.random.default_rng(11), actions.shape[0]
    noise = fixed.standard_normal((n, 2, *actions.shape[1:])).astype(np.float32)
    return noise, fixed.uniform(0.05, 1, (n, 2)).astype(np.float32)


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
