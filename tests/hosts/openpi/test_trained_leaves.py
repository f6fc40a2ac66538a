"""`--apt.vlm host` trains in Stage 2 what openpi's own command trains: the same parameters, at full size."""

from __future__ import annotations

import dataclasses

import jax
import pytest
from flax import nnx
from openpi.shared import nnx_utils
from openpi.training import config as _config

from apt_plugin import freeze
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.derive import as_host, freeze_filter
from apt_plugin.recipe import from_flat


def trained(model, held) -> set[str]:
    """Names of the parameters that a freeze filter leaves to the optimizer."""
    stays = nnx.filterlib.to_predicate(held)
    state = nnx.state(nnx.eval_shape(model.create, jax.random.key(0)), nnx.Param).flat_state()
    return {"/".join(map(str, path)) for path, leaf in state.items() if not stays(path, leaf)}


def with_lora(config, held: bool):
    """pi05 with LoRA on its VLM: as openpi's own configs give the filter, and by `--model.paligemma-variant` alone."""
    model = dataclasses.replace(config.model, paligemma_variant="gemma_2b_lora")
    return dataclasses.replace(config, model=model, **({"freeze_filter": model.get_freeze_filter()} if held else {}))


def without_images(config):
    return dataclasses.replace(config, freeze_filter=nnx.Any(config.freeze_filter, nnx_utils.PathRegex(".*img.*")))


CONFIGS = {
    "plain": lambda: _config.get_config("pi05_libero"),
    "low memory": lambda: _config.get_config("pi0_libero_low_mem_finetune"),
    "LoRA on the VLM": lambda: with_lora(_config.get_config("pi05_libero"), True),
    "low memory, images held": lambda: without_images(_config.get_config("pi0_libero_low_mem_finetune")),
    "images held": lambda: without_images(_config.get_config("pi05_libero")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_stage_2_trains_what_the_config_would_have_trained(name):
    stock = CONFIGS[name]()
    theirs = trained(stock.model, stock.freeze_filter)
    model = apt_config(stock.model, 2, as_host(stock, from_flat({})))
    ours = {leaf for leaf in trained(model, freeze_filter(model, stock.freeze_filter)) if not freeze.added(leaf)}
    assert theirs == ours


def test_lora_that_nothing_holds_still_is_a_vlm_that_trains_whole():
    """openpi's own trainer then trains the matrices and their factors; ours the matrices, which can do all of it."""
    stock = with_lora(_config.get_config("pi05_libero"), False)
    theirs = trained(stock.model, stock.freeze_filter)
    model = apt_config(stock.model, 2, as_host(stock, from_flat({})))
    ours = {leaf for leaf in trained(model, freeze_filter(model, stock.freeze_filter)) if not freeze.added(leaf)}
    assert ours == {leaf for leaf in theirs if "lora" not in leaf}


def test_fast_has_no_expert_to_train():
    with pytest.raises(AptError, match="has no expert"):
        as_host(_config.get_config("pi0_fast_libero_low_mem_finetune"), from_flat({}))
