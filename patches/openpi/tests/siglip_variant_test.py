import flax.nnx as nnx
import jax
import pytest

from openpi.models import pi0_config


def _image_params(**kwargs) -> int:
    config = pi0_config.Pi0Config(paligemma_variant="dummy", action_expert_variant="dummy", **kwargs)
    params = nnx.state(nnx.eval_shape(config.create, jax.random.key(0)), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(params["PaliGemma"]["img"]))


def test_default_is_the_tower_of_the_checkpoints():
    assert _image_params() > 400_000_000


@pytest.mark.parametrize("variant", ["mu/16", "Ti/16"])
def test_smaller_image_towers(variant: str):
    assert _image_params(siglip_variant=variant) < 10_000_000
