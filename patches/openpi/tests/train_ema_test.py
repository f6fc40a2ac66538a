import os

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from openpi.models import model as _model
from openpi.models import pi0_config
from openpi.shared import nnx_utils
from openpi.training import config as _config
from openpi.training import utils as training_utils

from . import train


class TwoWeights(_model.BaseModel):
    """One frozen weight in bfloat16, as the train script casts it, and one trained weight."""

    def __init__(self):
        super().__init__(action_dim=2, action_horizon=3, max_token_len=4)
        self.frozen = nnx.Param(jnp.linspace(0.1, 1.0, 8, dtype=jnp.bfloat16))
        self.trained = nnx.Param(jnp.ones(8, jnp.float32))

    def compute_loss(self, rng, observation, actions, *, train=False):
        error = jnp.sum(jnp.square(self.trained.value - self.frozen.value))
        return jnp.full(actions.shape[:2], error)

    def sample_actions(self, rng, observation, **kwargs):
        raise NotImplementedError


@pytest.mark.parametrize("num_steps", [1, 20])
def test_ema_leaves_frozen_params_alone(num_steps: int):
    config = _config.TrainConfig(
        name="ema",
        exp_name="ema",
        model=pi0_config.Pi0Config(action_dim=2, action_horizon=3, max_token_len=4),
        freeze_filter=nnx_utils.PathRegex("frozen"),
        ema_decay=0.99,
    )
    params = nnx.state(TwoWeights())
    tx = optax.sgd(1e-2)
    state = training_utils.TrainState(
        step=0,
        params=params,
        model_def=nnx.graphdef(TwoWeights()),
        tx=tx,
        opt_state=tx.init(params.filter(config.trainable_filter)),
        ema_decay=config.ema_decay,
        ema_params=params,
    )
    batch = (config.model.fake_obs(1), config.model.fake_act(1))
    for _ in range(num_steps):
        state, _ = train.train_step(config, jax.random.key(0), state, batch)

    np.testing.assert_array_equal(
        np.asarray(state.ema_params["frozen"].value, np.float32), np.asarray(params["frozen"].value, np.float32)
    )
    assert state.ema_params["frozen"].value.dtype == jnp.bfloat16
    # What is trained is still averaged: on its way from the first value to the last.
    first, last = params["trained"].value, state.params["trained"].value
    assert np.all(np.asarray(state.ema_params["trained"].value != first)[:-1])
    assert np.all(np.asarray(state.ema_params["trained"].value != last)[:-1])
