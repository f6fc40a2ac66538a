"""Every field of the recipe through every door of openpi: it arrives at the config that trains, or is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
from openpi.training import config as _config

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.adapter import OpenpiAdapter
from apt_plugin.hosts.openpi.derive import derive
from apt_plugin.hosts.openpi.programs import JOB
from apt_plugin.launch import split
from apt_plugin.recipe import flatten, from_flat
from tests.hosts.fields import ACTING, FIELDS, NO_GOALS, values_of
from tests.hosts.openpi import tiny
from tests.hosts.openpi.test_round_trip import SCRIPTS

OWN = {"mix.share": dataclasses.replace(FIELDS["mix.share"], beside={"mix.repo_id": "someone/play"})}  # no folders here
# Refused where a stage's config is derived, in JAX and in PyTorch.
REFUSED = {"mix.root": "openpi finds data sets by repo id", **NO_GOALS}


def toy() -> _config.TrainConfig:
    data = _config.LeRobotLiberoDataConfig(repo_id="me/toy", base_config=_config.DataConfig(prompt_from_task=True))
    return _config.TrainConfig(name="toy_fields", model=tiny.stock("pi05", action_dim=8, max_token_len=150), data=data)


def job_of(*line: str) -> dict:
    """What the launcher tells the process that it would start."""
    request, adapter = split([*line]), OpenpiAdapter()
    stages = adapter.stages(request)
    if stages is None:
        return json.loads(adapter.start(request).env[JOB])
    budget = {"steps": {}, "flags": {}, "says": ""}  # the host's own parser is asked for these
    stages.__dict__["plan"] = {"folders": {}, "budget": budget, "recipe": dataclasses.asdict(request.recipe)}
    return json.loads(stages.command("1").env[JOB])


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_arrives_at_the_config_that_trains_or_is_refused(name):
    chosen = OWN.get(name, FIELDS[name])
    line = [str(SCRIPTS / "train.py"), "pi05_libero", "--exp-name=e1", "--recipe", "apt", "--apt.stage", "1"]
    job = job_of(*line, *chosen.flags(name))
    recipe = from_flat(flatten(job["recipe"]))
    assert recipe == chosen.recipe(name)
    if name == "freeze":
        recipe = from_flat({"freeze": ["action_in_proj"]})  # a pattern that this family has
    for stage in (1, 2):
        if name in REFUSED:  # in Stage 1 too: not after hours of training
            with pytest.raises(AptError, match=REFUSED[name]):
                derive(toy(), stage, recipe)
            continue
        made = derive(toy(), stage, recipe).model.apt_recipe
        assert values_of(made)[name] == values_of(recipe)[name]


@pytest.mark.parametrize("name", FIELDS)
def test_a_server_applies_a_field_or_refuses_it(name):
    """All of them were dropped without a word."""
    line = [str(SCRIPTS / "serve_policy.py"), "policy:checkpoint", "--recipe", "apt", *FIELDS[name].flags(name)]
    if name in ACTING:
        assert job_of(*line) == {"do": "serve", "acting": {name: FIELDS[name].value}}
        with pytest.raises(AptError, match="opens none"):
            OpenpiAdapter().start(split([str(SCRIPTS / "compute_norm_stats.py"), *line[1:]]))
        return
    with pytest.raises(AptError, match="is settled when a policy is trained"):
        job_of(*line)


def test_chosen_taps_and_a_foreign_cache_are_refused():
    """Accepted, recorded and not applied: π fuses at its own depth, and has no backbone states to store."""
    with pytest.raises(AptError, match=r"fusion\.taps is '1,3'"):
        derive(toy(), 2, from_flat({"fusion.taps": "1,3"}))
    with pytest.raises(AptError, match=r"cache_kind is 'states'; π stores keys and values"):
        derive(toy(), 1, from_flat({"cache": "c", "cache_kind": "states"}))
