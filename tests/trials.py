"""What a trial left on a host that reads every episode of a folder: nobody trained on what was asked about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def check(found: Path, ways: Sequence[str], held_out: int) -> None:
    """
    Args:
        found: the trial's folder; ways: that were tried, by their names; held_out: how many episodes.
    """
    plan = json.loads((found / "plan.json").read_text())
    assert len(plan["held_out"]) == held_out
    for way in ways:
        answer = json.loads((found / f"{way}-0/answer.json").read_text())
        assert set(answer["episode"]) <= set(plan["held_out"])
    kept = json.loads((found / "trained-on/meta/apt_episodes.json").read_text())
    assert kept["episodes"] == plan["train"]
