"""The table over worlds: its score, its intervals, and that neither instrument reports the other's results."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_compare import table, worlds
from apt_compare.board import current
from apt_compare.plan import read, results, shipped
from apt_plugin.errors import AptError

CONFIGS = read(shipped())
PROJECT = Path(__file__).parents[1]


def run(arm: str, seed: int, task: int, rest: int = 50, guided: bool = False) -> dict:
    counts = {split: {"k": rest, "n": 100, "where": {}} for split in ("seen", "position", "chained", *worlds.SCORED)}
    counts["task"] = {"k": task, "n": 100, "where": {"usual": 100 - task}}
    return {
        "setting": "certain", "arm": arm, "seed": seed, "budget": "steps", "rate": 3e-3, "steps": [0, 10],
        "flops": {"stock": 1e9, "total": 1e9}, "cpu": {"train": 1.0}, "wall": {"train": 1.0}, "listen": {},
        "splits": counts, "guided": {"1.5": counts} if guided else {}, "labels_right": None,
        "retention": [[0, 1.0, 0.9], [1500, 0.8 + seed / 100, 0.7]], "key": f"certain--{arm}--s{seed}--steps--x",
    }  # fmt: skip


def test_the_score_is_the_mean_of_the_five_splits_that_tell_something():
    assert worlds.score(run("a", 0, 100)) == pytest.approx(0.6)
    assert not {"seen", "rare", "position", "chained"} & set(worlds.SCORED)


def test_the_table_says_worlds_intervals_and_differences():
    arms = {"stock_frozen": 40, "new": 80}
    kept = [run(arm, seed, k + seed, guided=arm == "new") for arm, k in arms.items() for seed in range(4)]
    made = worlds.by_arm(kept)
    lines = worlds.table(made)
    assert lines[2].startswith("| `new` | 4 | 50 | 82 (78 to 86) | 18 |")
    assert lines[2].endswith("| 56 (54 to 58) | +8 (+5 to +11) | 0.82 | 0.70 |")
    assert lines[4].endswith("|  | 0.82 | 0.70 |")  # against itself
    assert lines[3].startswith("| `new @1.5` |")
    assert "| 50 (0 to 100) |" in worlds.table(worlds.by_arm([run("a", 0, 20), run("a", 1, 80)]))[2]  # of two, nothing
    said = worlds.sentences(made)
    assert said[-1].startswith("Pointing kept and success, 8 runs that train the VLM: rank correlation ")
    one = worlds.by_arm([run("new", 0, 80), run("warmup", 0, 70)])
    assert worlds.table(one)[2].endswith("| 56 | +2 | 0.80 | 0.70 |")
    assert worlds.sentences(one) == []


def test_retention_and_where_the_arm_went_survive_the_table():
    kept = [run("a", 0, 30), run("b", 1, 40)]
    back = table.read(table.write(kept).decode())
    assert [each["retention"] for each in back] == [
        [(0, 1.0, 0.9), (1500, pytest.approx(0.8 + k / 100), 0.7)] for k in (0, 1)
    ]
    assert [each["task_usual"] for each in back] == [70, 60]
    assert table.write(back) == table.write(kept)


def test_neither_instrument_reports_the_others_results():
    old = {**run("a", 0, 10), "setting": "random"}
    assert worlds.apart([old, run("a", 0, 10)], CONFIGS) == ([old], [run("a", 0, 10)])


def test_the_tables_on_the_page_follow_from_the_committed_results():
    """And from the committed arms and settings: an edited arm's old results no longer count."""
    found = results(PROJECT / "worlds.csv")
    assert len(current(found, CONFIGS)) == len(found)
    assert worlds.apart(found, CONFIGS)[0] == []
    page = (PROJECT / "findings.md").read_text()
    assert page.count("\n| `stock_frozen` |") >= 2
    assert worlds.with_tables(page, found, CONFIGS) == page


def test_a_page_without_marks_is_left_alone(tmp_path):
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(AptError, match="holds not one pair of lines"):
        worlds.write_page([run("a", 0, 10)], CONFIGS, tmp_path / "page.md")
