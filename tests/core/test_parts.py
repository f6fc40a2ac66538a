"""What part a parameter belongs to, how fast it trains, what stays still."""

from __future__ import annotations

import pytest

from apt_plugin import parts
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD, PRIOR

NAMES = {
    "model.paligemma.layers.0.weight": "vlm",
    "model.expert.layers.0.weight": "inherited",
    "model.apt_fusion.0.q.weight": "fusion",
    "model.apt_fusion.0.gate.w": "gate",
    "apt_fusion/gate/w": "gate",
    "model.paligemma.apt_fusion.0.gate.w": "gate",  # ours wherever it stands
    "model.expert.navigate.w": "inherited",  # the host's own names are never gates
}


def in_vlm(name: str) -> bool:
    return ".paligemma." in name


@pytest.mark.parametrize(("name", "part"), NAMES.items())
def test_part_of(name, part):
    assert parts.part_of(name, in_vlm) == part


def test_rates_follow_recipe_and_stage():
    recipe = Recipe(inherited="slow", inherited_lr_scale=0.2, fusion_lr_scale=3.0, vlm_lr_scale=0.5)
    assert parts.rate_scales(recipe, PRIOR) == {"vlm": 0.5, "inherited": 1.0, "fusion": 3.0, "gate": 3.0}
    assert parts.rate_scales(recipe, LIKELIHOOD)["inherited"] == 0.2
    assert [part for part in parts.PARTS if not parts.decays(part)] == ["gate"]


def test_frozen_names_are_the_recipes_alone():
    names = list(NAMES)
    assert parts.frozen_names(names, Recipe(), LIKELIHOOD, in_vlm) == set()
    freeze = Recipe(inherited="freeze", freeze=["fusion.0.q"])
    held = {"model.expert.layers.0.weight", "model.expert.navigate.w", "model.apt_fusion.0.q.weight"}
    assert parts.frozen_names(names, freeze, LIKELIHOOD, in_vlm) == held
    assert parts.frozen_names(names, freeze, PRIOR, in_vlm) == {"model.apt_fusion.0.q.weight"}


def test_a_pattern_may_match_what_a_cache_stands_in_for():
    recipe = Recipe(freeze=["paligemma"])
    assert parts.frozen_names(["model.expert.w"], recipe, PRIOR, in_vlm, ["model.paligemma.w"]) == set()
    with pytest.raises(AptError, match="matches none"):
        parts.frozen_names(["model.expert.w"], recipe, PRIOR, in_vlm)
