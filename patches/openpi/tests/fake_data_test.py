import jax
import numpy as np

from openpi.models import pi0_config
from openpi.training import data_loader as _data_loader


def test_fake_data_is_not_masked():
    config = pi0_config.Pi0Config(action_dim=24, action_horizon=50, max_token_len=48)
    sample = _data_loader.FakeDataset(config, 1)[0]

    masks = [leaf for leaf in jax.tree.leaves(sample) if leaf.dtype == bool]
    assert len(masks) == len(sample["image_mask"]) + 1  # one per image, one for the prompt
    assert all(np.all(mask) for mask in masks)


def test_fake_data_keeps_the_spec():
    config = pi0_config.Pi0Config(action_dim=24, action_horizon=50, max_token_len=48)
    sample = _data_loader.FakeDataset(config, 1)[0]
    observation_spec, action_spec = config.inputs_spec(batch_size=1)

    for leaf, spec in zip(
        jax.tree.leaves(sample), jax.tree.leaves({**observation_spec.to_dict(), "actions": action_spec}), strict=True
    ):
        assert (leaf.shape, leaf.dtype) == (spec.shape[1:], spec.dtype)
