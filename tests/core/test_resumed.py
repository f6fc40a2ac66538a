"""A run that goes on keeps its recipe and its prior, and repeats no proof that holds: on a host that is a folder."""

from __future__ import annotations

import json

import pytest

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.run.resumed import proven
from apt_plugin.run.staged import PROOFS
from tests.core.test_staged import leave, staged


@pytest.fixture
def both(tmp_path):
    """Both stages left a checkpoint; Stage 2 began on this Stage 1."""
    leave(tmp_path, "1")
    leave(tmp_path, "2")
    edit(tmp_path / "stage2/apt.json", stage1={"path": str(tmp_path / "stage1"), "weights": "b" * 64})
    return tmp_path


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_same_command_goes_on(both):
    run, processes = staged(both, "--apt.guidance_scale=2", resume=True)
    assert run.train() == 0
    assert "train 2" in processes.started


@pytest.mark.parametrize("stage", ["2", "both"])
def test_a_replaced_prior_is_noticed(both, stage):
    """`--overwrite --apt.stage 1`, then `--apt.stage 2 --resume`: it trained on the old one and logged the new."""
    edit(both / "stage1/apt.json", weights="d" * 64)
    run, processes = staged(both, f"--apt.stage={stage}", resume=True)
    with pytest.raises(AptError, match=r"began on a Stage 1 with weights b{12}, and .*stage1 holds d{12}"):
        run.train()
    assert processes.looked == []
    assert staged(both, f"--apt.stage={stage}")[0].train() == 0  # not resumed: the host decides


def test_a_prior_that_is_gone_stops_nothing_unless_another_is_in_its_place(both):
    edit(both / "stage2/apt.json", stage1={"path": str(both / "gone"), "weights": "b" * 64})
    assert staged(both, resume=True)[0].train() == 0
    edit(both / "stage2/apt.json", stage1={"path": str(both / "gone"), "weights": "e" * 64})
    with pytest.raises(AptError, match="was replaced"):
        staged(both, resume=True)[0].train()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--apt.fusion.kind=host"],
            r"fusion\.kind is host now and was interleaved.* Write --apt\.fusion\.kind interleaved",
        ),
        (["--apt.noise_draws=8"], "noise_draws is 8 now and was 4"),
        (["--apt.vlm=full"], "vlm is full now and was frozen"),
    ],
)
def test_another_recipe_is_refused_by_its_field(both, flags, words):
    """It ended in a dump of two trees of parameters, or was dropped without a word."""
    run, processes = staged(both, *flags, resume=True)
    with pytest.raises(AptError, match=words):
        run.train()
    assert processes.looked == []


def test_a_structure_that_was_left_out_is_refused_too(both):
    value = json.loads((both / "stage2/apt.json").read_text())
    value["recipe"]["fusion"]["kind"] = "host"
    value["recipe"]["vlm_lr_scale"] = 0.1  # another default of an older plugin: nobody wrote it
    (both / "stage2/apt.json").write_text(json.dumps(value))
    with pytest.raises(AptError, match=r"apt\.fusion\.kind host to go on") as caught:
        staged(both, resume=True)[0].train()
    assert "vlm_lr_scale" not in str(caught.value)


def test_proofs_that_hold_are_not_repeated_until_something_changes(tmp_path):
    leave(tmp_path, "1")
    files.write_json(tmp_path / PROOFS, {"holds": True, "rows": [], "of": proven(tmp_path / "stage1")})
    run, processes = staged(tmp_path, done=("1",), resume=True)
    assert run.train() == 0
    assert processes.started == ["train 2", "listen"]
    for name, value in (("stage1/apt.json", {"weights": "c" * 64}), (PROOFS, {"holds": False})):
        files.write_json(tmp_path / PROOFS, {"holds": True, "rows": [], "of": proven(tmp_path / "stage1")})
        edit(tmp_path / name, **value)
        run, processes = staged(tmp_path, done=("1", "2"), resume=True)
        assert run._prove() == 0
        assert processes.started == ["prove"]
