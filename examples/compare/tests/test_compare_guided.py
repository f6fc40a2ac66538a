"""Numbers of a guided policy: what `listen` says of it, and how far training moved its VLM."""

from __future__ import annotations

import pytest

from apt_compare.board import Board
from apt_compare.plan import gather, results
from apt_compare.spec import Arm
from compare_cases import a_run
from test_compare_report import result


def test_a_table_keeps_the_margin_of_every_scale(tmp_path):
    splits = {"seen": {"k": 9, "n": 10, "where": {}}}
    guided = {"1.5": splits, "2": splits}
    made = {**result("a", 0, 5, guided=guided), "splits": splits, "key": "random--a--s0--steps--0"}
    made |= {"listen_guided": {"1.5": {"margin": 0.5, "loss": 0.1}, "2": {"margin": 0.75}}, "labels_right": None}
    made["listen"] = {"margin": 0.25}
    older = {**made, "key": "random--b--s0--steps--0", "arm": "b", "listen": {"margin": 0.25}}
    del older["listen_guided"]
    gather([made, older], tmp_path / "results.csv")
    back = results(tmp_path / "results.csv")
    assert back[0]["listen_guided"] == {"1.5": {"margin": 0.5}, "2": {"margin": 0.75}}
    assert "listen_guided" not in back[1]
    board = Board(back)
    assert [board.mean("random", "steps", f"a{at}", "listen", "margin") for at in ("", " @1.5", " @2")] == [
        0.25,
        0.5,
        0.75,
    ]
    assert board.mean("random", "steps", "b @1.5", "listen", "margin") is None


@pytest.mark.parametrize("vlm", ["frozen", "full"])
def test_a_run_looks_at_its_policy_under_every_scale(out, tmp_path, vlm):
    pytest.importorskip("lerobot")
    made = a_run(out, tmp_path, Arm("a", vlm=vlm, guidance=(1.0, 1.5))).result("steps")
    assert set(made["listen_guided"]) == set(made["guided"]) == {"1.5"}
    assert made["listen_guided"]["1.5"]["margin"] != made["listen"]["margin"]
    assert ("retention" in made["listen"]) == (vlm == "full")
