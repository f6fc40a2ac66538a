"""Sizes: a replaced name must be back afterwards, and must mean one thing at a time."""

import pytest

from apt_plugin.hosts.lerobot.sizes import TINY, complete, sized


def test_unknown_and_impossible_sizes_teach():
    """A mistyped key that is ignored would build another model than the one asked for."""
    with pytest.raises(KeyError, match="Did you mean 'vlm_width'"):
        complete({"vlm_widht": 3})
    with pytest.raises(ValueError, match="even"):
        complete({"head_dim": 7})
    with pytest.raises(ValueError, match="positive integer"):
        complete({"depth": 0})
    assert complete({}) == TINY


@pytest.mark.parametrize("host", ["pi05", "pi0"])
def test_host_builds_tiny_and_is_itself_again(host):
    """All three names must be put back in both modules, and the model must really have the sizes."""
    pytest.importorskip("lerobot")
    import importlib

    module = importlib.import_module(f"lerobot.policies.{host}.modeling_{host}")
    config_module = importlib.import_module(f"lerobot.policies.{host}.configuration_{host}")
    before = {name: getattr(module, name) for name in ("get_gemma_config", "PiGemmaForCausalLM")}
    upper = host.upper()
    config = getattr(config_module, f"{upper}Config")(device="cpu", image_resolution=(28, 28))
    core = getattr(module, f"{upper}Pytorch")
    with sized({"vlm_width": 24, "depth": 3}):
        with sized({"depth": 3, "vlm_width": 24}):  # the same again is fine
            model = core(config)
        with pytest.raises(RuntimeError, match="already active"), sized({"depth": 2}):
            pass
    pali = model.paligemma_with_expert.paligemma
    assert pali.lm_head.weight.shape == (TINY["vocab"], 24)
    assert len(pali.model.language_model.layers) == len(model.paligemma_with_expert.gemma_expert.model.layers) == 3
    assert sum(p.numel() for p in model.parameters()) < 400_000
    assert {name: getattr(module, name) for name in before} == before


def test_none_changes_nothing():
    """`sizes: null` in a config is the host's own model."""
    with sized(None):
        pass
