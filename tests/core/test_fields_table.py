"""The table that the hosts' field tests walk is whole, and its values are what a user may write."""

from __future__ import annotations

import pytest

from apt_plugin import launch
from apt_plugin.errors import AptError
from apt_plugin.launch import check_one_process, for_acting, split
from apt_plugin.recipe import Recipe, fields_of
from tests.hosts import fields
from tests.hosts.fields import FIELDS, values_of


def test_every_field_of_the_recipe_is_in_the_table():
    """A field that is not would be walked through no door of any host."""
    assert set(FIELDS) == set(fields_of())
    assert launch.ACTING == fields.ACTING


@pytest.mark.parametrize("name", FIELDS)
def test_a_chosen_value_is_read_as_it_was_written(name):
    chosen = FIELDS[name]
    assert values_of(chosen.recipe(name))[name] == chosen.value != values_of(Recipe())[name]
    request = split(["--recipe", "apt", *chosen.flags(name)])
    assert request.recipe == chosen.recipe(name)
    assert {name, *chosen.beside} == request.given


@pytest.mark.parametrize(
    "name",
    [
        "vlm_lr_scale",
        "frozen_share",
        "inherited_lr_scale",
        "cache_kind",
        "cache_views",
        "prior.goal_at",
        "prior.goal_share",
    ],
)
def test_a_value_that_nothing_would_read_is_refused(name):
    """It was recorded as if it had been applied."""
    chosen = FIELDS[name]
    needed = next(iter(chosen.beside))
    beside = ["--apt.vlm=frozen"] if needed == "vlm" else []  # of the default, the host's command decides
    with pytest.raises(AptError, match=rf"{name} is {chosen.value}, and nothing reads it without {needed}="):
        split(["--recipe", "apt", f"--apt.{name}={chosen.value}", *beside])


@pytest.mark.parametrize("name", ["mix.root", "mix.repo_id"])
def test_data_to_mix_without_a_share_are_refused(name):
    with pytest.raises(AptError, match=r"mix names 'play' and mix\.share is 0"):
        split(["--recipe", "apt", f"--apt.{name}=play"])


@pytest.mark.parametrize("name", [*FIELDS, "stage", "prove", "listen", "preset", "stage1.steps", "stage1.share"])
def test_a_program_that_acts_takes_what_acting_may_choose_and_nothing_else(name):
    """`--apt.guidance_scale 100` behind a server's command changed nothing, and neither did any other."""
    if name in fields.ACTING:
        request = split(["--recipe", "apt", *FIELDS[name].flags(name)])
        assert for_acting(request) == {name: FIELDS[name].value}
        return
    more = {"stage": "1", "prove": "true", "listen": "4", "preset": "paper", "stage1.steps": "3",
            "stage1.share": "0.2"}  # fmt: skip
    flags = FIELDS[name].flags(name) if name in FIELDS else [f"--apt.{name}={more[name]}"]
    with pytest.raises(AptError, match=r"is settled when a policy is trained"):
        for_acting(split(["--recipe", "apt", *flags]))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "one stage per command"),
        (["--apt.stage", "both"], "one stage per command"),
        (["--apt.stage", "1", "--apt.prove", "true"], "works between two stages"),
        (["--apt.stage", "2", "--apt.listen", "8"], "works behind `apt-plugin run`"),
        (["--apt.stage", "1", "--apt.stage1.max-steps", "5"], "write --max-steps 5 in the host's own command"),
        (["--apt.stage", "1", "--max-steps=5"], "'--max-steps=5' is no flag of the recipe"),
    ],
)
def test_a_door_of_one_process_refuses_what_it_cannot_carry_out(flags, words):
    with pytest.raises(AptError, match=words):
        check_one_process(split(["--recipe", "apt", *flags]), stage_flags=False)
    agreed = ["--recipe", "apt", "--apt.stage", "1", "--apt.prove", "false", "--apt.listen", "0"]
    check_one_process(split(agreed), stage_flags=False)  # says what happens anyway
