"""The host's parameter tree at full size, by shape-only evaluation; freezing and optimiser groups."""

from __future__ import annotations

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from openpi.models import gemma, siglip
from openpi.models.pi0_config import Pi0Config
from openpi.training import config as _config
from openpi.training import weight_loaders

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.derive import derive, freeze_filter, shapes_of
from apt_plugin.hosts.openpi.loading import flat, merge_prior, unflat
from apt_plugin.hosts.openpi.optim import part_of
from apt_plugin.recipe import from_flat
from tests.hosts.openpi import tiny

FULL = {
    "pi0": Pi0Config(),
    "pi05": Pi0Config(pi05=True),
    "pi0 lora": Pi0Config(paligemma_variant="gemma_2b_lora", action_expert_variant="gemma_300m_lora"),
}


@pytest.fixture
def full_size(monkeypatch):
    """Undo the small sizes of this suite."""
    monkeypatch.setattr(gemma, "PALIGEMMA_VOCAB_SIZE", 257_152)
    real = tiny.REAL_SIGLIP
    monkeypatch.setattr(siglip, "Module", real)


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("kind", ["interleaved", "host"])
def test_full_size_trees_differ_by_apt_keys_alone(name, kind, full_size):
    stock = shapes_of(FULL[name])
    recipe = from_flat({"fusion.kind": kind, "vlm": "lora" if "lora" in name else "frozen"})
    second = shapes_of(apt_config(FULL[name], 2, recipe))
    added = {n: s for n, s in second.items() if n.startswith("apt_")}
    assert {n: s for n, s in second.items() if n not in added} == stock
    assert added["apt_fusion/gate/w"] == (18, 1)
    assert set(added) == {"apt_fusion/gate/w"} or kind == "interleaved"
    first = shapes_of(apt_config(FULL[name], 1, recipe))
    # Stage 1 adds no key; it leaves out LoRA of the VLM, which it would freeze at its random start
    assert first == {n: s for n, s in stock.items() if not (part_of(n) == "vlm" and "lora" in n)}
    if name == "pi0":
        assert sum(__import__("math").prod(s) for s in stock.values()) > 3.2e9  # really the full size


def frozen_names(model, stock_filter=nnx.Nothing):
    chosen = freeze_filter(model, stock_filter)
    chosen = nnx.filterlib.to_predicate(chosen)
    return {n for n in shapes_of(model) if chosen(tuple(n.split("/")), None)}


def test_stage_1_freezes_the_vlm_and_nothing_else():
    model = tiny.ours("pi05")
    names = shapes_of(model)
    assert frozen_names(model) == {n for n in names if part_of(n) == "vlm"}
    assert {part_of(n) for n in names} == {"vlm", "inherited"}
    assert "PaliGemma/llm/layers/attn/q_einsum_1/w" in set(names) - frozen_names(model)


def test_stage_2_freezing_follows_the_recipe():
    assert not frozen_names(tiny.ours("pi0", 2, {"vlm": "full"}))
    held = frozen_names(tiny.ours("pi0", 2, {"inherited": "freeze"}))
    assert {part_of(n) for n in held} == {"vlm", "inherited"}
    lora = tiny.ours("pi0", 2, {"vlm": "lora"})
    assert lora.paligemma_variant == "dummy_lora"
    free = set(shapes_of(lora)) - frozen_names(lora)
    assert {n for n in free if part_of(n) == "vlm"} == {n for n in free if "lora" in n or "/img/" in n}


def test_an_expert_lora_variant_keeps_its_base_frozen():
    stock = tiny.stock("pi0", action_expert_variant="dummy_lora")
    model = tiny.ours("pi0", action_expert_variant="dummy_lora")
    held = frozen_names(model, stock.get_freeze_filter())
    assert "PaliGemma/llm/layers/attn/q_einsum_1/w" in held
    assert "PaliGemma/llm/layers/attn/q_einsum_1/lora_a" not in held


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(AptError, match="matches none of"):
        freeze_filter(tiny.ours("pi0", 1, {"freeze": ["no_such_part"]}), nnx.Nothing)


@pytest.mark.parametrize("name", sorted(_config._CONFIGS_DICT))
def test_every_config_is_derived_or_refused_with_the_reason(name, full_size):
    stock = _config.get_config(name)
    recipe = from_flat({})
    if not isinstance(stock.model, Pi0Config):
        with pytest.raises(AptError, match="FAST"):
            derive(stock, 1, recipe)
        return
    one = derive(stock, 1, recipe)
    assert one.name == f"{name}_apt1"
    assert one.data.stock_name == name
    assert one.model.model_type == stock.model.model_type
    assert one.policy_metadata["apt"]["stage"] == 1


def test_an_upstream_base_checkpoint_fills_stage_1_whole_and_stage_2_but_for_apt_keys(tmp_path):
    """Through the host's own CheckpointWeightLoader, from a file that the host would write."""
    with tiny.small():
        stock = tiny.stock("pi0")
        base = nnx.state(stock.create(jax.random.key(3)), nnx.Param).to_pure_dict()
        ocp.PyTreeCheckpointer().save(tmp_path / "params", {"params": base})
        loader = weight_loaders.CheckpointWeightLoader(str(tmp_path / "params"))
        config = _config.TrainConfig(name="toy", model=stock, weight_loader=loader, data=_config.FakeDataConfig())
        shapes = nnx.state(nnx.eval_shape(tiny.ours("pi0", 2).create, jax.random.key(0)), nnx.Param).to_pure_dict()
    first = {n: v for n, v in shapes.items() if not n.startswith("apt_")}
    loaded = flat(derive(config, 1, from_flat({})).weight_loader.load(first))
    assert loaded.keys() == flat(base).keys()
    for name, value in flat(base).items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)
    second = flat(merge_prior(shapes, unflat(loaded), tmp_path))
    missing = {name for name, leaf in second.items() if isinstance(leaf, jax.ShapeDtypeStruct)}
    assert missing
    assert all(name.startswith("apt_") for name in missing)
