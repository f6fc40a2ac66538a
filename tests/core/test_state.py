"""What a stage knows of itself, whichever host trains it."""

from __future__ import annotations

import dataclasses

import pytest

from apt_plugin.card import began, published
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.run.state import StageState
from apt_plugin.stages import LIKELIHOOD, PRIOR, NonFiniteError, read_record, write_record

HASHES = {"vlm": "a" * 64, "weights": "c" * 64, "layout": "d" * 64}


def state(stage=PRIOR, **recipe):
    return StageState(stage, Recipe(**recipe), "pi05", "lerobot 0.6.1")


def test_a_record_comes_back_as_the_state_it_was(tmp_path):
    one = state()
    one.begin("a" * 64)
    for step in range(3):
        one.curve.add(step, {"loss": 1.0 / (step + 1)})
        one.step += 1
    write_record(tmp_path, one.record(**HASHES))
    again = state()
    again.resume(tmp_path, read_record(tmp_path))
    assert (again.step, again.vlm_start, again.stage1) == (3, "a" * 64, None)
    assert again.curve.points("loss")[1].tolist() == one.curve.points("loss")[1].tolist()


def test_a_folder_is_no_name_on_the_hub_wherever_the_card_is_written(tmp_path, monkeypatch):
    (tmp_path / "bases" / "pi05").mkdir(parents=True)
    one = state()
    monkeypatch.chdir(tmp_path)
    one.began_with("bases/pi05")
    monkeypatch.chdir("/")
    assert published(one.base) is None
    one.began_with("lerobot/pi05_base")
    assert published(one.base) == "lerobot/pi05_base"
    bucket = "gs://openpi-assets/checkpoints/pi05_base/params"  # as openpi's configs name it
    one.began_with(bucket)
    assert (published(one.base), began(one.base)) == (None, f"`{bucket}`")


def test_the_base_is_carried_from_stage_to_stage(tmp_path):
    """A card that names the base reads it off the last checkpoint."""
    one = state()
    one.base = "lerobot/pi05_base"
    write_record(tmp_path, one.record(**HASHES))
    two = state(LIKELIHOOD, vlm="full")
    two.after(tmp_path, read_record(tmp_path))
    assert two.record(**HASHES).base == "lerobot/pi05_base"


def test_a_record_is_of_its_moment():
    """openpi writes in a thread while the next steps run."""
    one = state()
    one.curve.add(0, {"loss": 1.0})
    record = one.record(**HASHES, steps=7)
    one.curve.add(1, {"loss": 2.0})
    assert record.steps == 7
    assert record.curve.points("loss")[1].tolist() == [1.0]


@pytest.mark.parametrize(
    ("stage", "vlm", "held"),
    [(PRIOR, "full", True), (LIKELIHOOD, "frozen", True), (LIKELIHOOD, "lora", True), (LIKELIHOOD, "full", False)],
)
def test_frozen_is_frozen_in_every_mode(stage, vlm, held):
    one = state(stage, vlm=vlm)
    one.begin("a" * 64)
    one.check("a" * 64)
    if held:
        with pytest.raises(AptError, match="hash went from aaaaaaaaaaaa to bbbbbbbbbbbb"):
            one.record(**HASHES | {"vlm": "b" * 64})
    else:
        assert one.record(**HASHES | {"vlm": "b" * 64}).vlm_start == "a" * 64


def test_what_is_not_finite_is_not_saved():
    with pytest.raises(NonFiniteError, match="action_out"):
        state().check("a" * 64, "action_out")


def test_a_resumed_stage_keeps_the_hash_it_began_with():
    one = state()
    one.begin("a" * 64)
    one.begin("b" * 64)
    assert one.vlm_start == "a" * 64


def test_provenance_is_of_a_stage_1(tmp_path):
    prior = state().record(**HASHES, steps=9)
    two = state(LIKELIHOOD, vlm="full")
    two.after(tmp_path, prior)
    assert two.stage1 == {"path": str(tmp_path), "weights": "c" * 64, "vlm": "a" * 64, "steps": 9}
    with pytest.raises(AptError, match="Stage 2 starts from Stage 1"):
        two.after(tmp_path, dataclasses.replace(prior, stage=LIKELIHOOD))
    with pytest.raises(AptError, match="is of Stage 1, this run of Stage 2"):
        two.resume(tmp_path, prior)
