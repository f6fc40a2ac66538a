"""A plain sentence per question, computed from the results, and what it rests on; "not run" where they are missing.

A question is data (`configs/questions.yaml`):

    - ask: Does APT beat stock training at equal steps?
      kind: compare            # ours against theirs, in each setting
      ours: apt
      theirs: [stock_frozen, null_k4]
      settings: [random, fixed]
      budget: steps            # left out: steps
      splits: unseen           # or names of splits; left out: unseen
    - ask: Which gate?
      kind: best               # arms in one setting, against the first
      arms: [apt, apt_gate_head]
      settings: [random]
    - ask: Is the goal reached?
      kind: goal               # 10 points over stock and over the best baseline on every unseen split
      arms: [apt_contrast]
      settings: [random]
      points: 10
    - ask: Is the ordering stable when training is longer?
      kind: trend              # each arm minus the first along a knob; the report plots their success
      arms: [stock_frozen, apt]
      axis: steps
      along: {random: 1500, long: 6000}
    - ask: Is each baseline a fair one?
      kind: fair               # the best rate of its sweep against the rate it ran under
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apt_compare import kinds
from apt_compare.board import Board
from apt_compare.goal import goal
from apt_compare.kinds import Answer
from apt_compare.plan import Configs
from apt_plugin.errors import AptError, choose, did_you_mean

FIELDS = ("ask", "kind", "ours", "theirs", "arms", "settings", "budget", "splits", "points", "axis", "along")
ANSWERED = {"compare": kinds.compare, "best": kinds.best, "goal": goal, "trend": kinds.trend}
KINDS = (*ANSWERED, "fair")


def answers(board: Board, configs: Configs, tuned: Mapping[str, Any] | None = None) -> list[tuple[str, Answer]]:
    """(question, answer) in the order of the file."""
    out = []
    for number, question in enumerate(configs.questions):
        check(question, number)
        if question["kind"] == "fair":
            answer = kinds.fair(tuned or {}, configs)
        else:
            answer = ANSWERED[question["kind"]](board, question, configs)
        out.append((question["ask"], answer))
    return out


def check(question: Any, number: int) -> None:
    """
    Raises:
        AptError: no mapping, an unknown field or kind.
    """
    if not isinstance(question, Mapping) or "ask" not in question:
        raise AptError(f"questions.yaml, entry {number + 1}: write a mapping with ask: and kind:.")
    for key in question:
        if key not in FIELDS:
            raise AptError(f"questions.yaml, entry {number + 1}: unknown field {key!r}.{did_you_mean(key, FIELDS)}")
    choose(f"questions.yaml, entry {number + 1}: kind", question.get("kind", ""), KINDS)
