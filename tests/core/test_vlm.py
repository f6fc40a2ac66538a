"""`vlm: host` becomes frozen, lora or full once, and nothing behind that sees it."""

from __future__ import annotations

import logging

import pytest

from apt_plugin.cache.request import wanted
from apt_plugin.errors import AptError
from apt_plugin.recipe import MODES, Recipe, from_flat
from apt_plugin.vlm import Trained, mode_of, resolved


def never():
    raise AssertionError("the recipe says it itself")


@pytest.mark.parametrize("mode", MODES)
def test_a_recipe_that_says_it_itself_is_left_alone(mode):
    recipe = from_flat({"vlm": mode})
    assert resolved(recipe, never) is recipe


@pytest.mark.parametrize("mode", MODES)
def test_the_hosts_command_decides_and_the_log_says_by_what(mode, caplog):
    with caplog.at_level(logging.INFO):
        out = resolved(from_flat({"freeze": "[mine]"}), lambda: Trained(mode, "--its.switch", ("images",)))
    assert (out.vlm, out.freeze) == (mode, ["mine", "images"])
    assert "--its.switch" in caplog.text
    assert ("followed 54 of a hundred" in caplog.text) == (mode == "frozen")
    assert resolved(out, never) is out


def test_a_rate_for_a_vlm_that_stays_frozen_is_refused():
    with pytest.raises(AptError, match=r"vlm_lr_scale is 0\.2, and nothing reads it"):
        resolved(from_flat({"vlm_lr_scale": 0.2}), lambda: Trained("frozen", "--its.switch"))


def test_stage_1_never_trains_the_vlm_and_stage_2_must_have_been_told():
    assert mode_of(Recipe(), 1) == "frozen"
    assert mode_of(from_flat({"vlm": "lora"}), 2) == "lora"
    with pytest.raises(AptError, match="vlm is 'host'"):
        mode_of(Recipe(), 2)


@pytest.mark.parametrize(("mode", "reads"), [("frozen", True), ("lora", False), ("full", False)])
def test_a_cache_is_read_where_the_vlm_is_frozen(mode, reads):
    recipe = from_flat({"vlm": mode, "cache": "features"})
    assert (wanted(recipe, 1), wanted(recipe, 2)) == (True, reads)
    assert not wanted(from_flat({"vlm": mode}), 1)
