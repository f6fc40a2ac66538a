"""What Stage 1 is told instead of an instruction: where its own demonstration ends, which needs no labels.

A prior without it learns which goal people usually go for, and that is what the words of Stage 2 should explain.
"""

from __future__ import annotations

from dataclasses import dataclass

from apt_plugin.errors import AptError, choose

GOALS = ("none", "state")
ENDS = ("chunk", "episode")


@dataclass(frozen=True)
class Prior:
    """The vision-action prior of Stage 1; Stage 2 and acting know no goal."""

    # "state": the proprioceptive state (gripper included) that the demonstration reaches, written as the robot's own.
    goal: str = "none"
    # Whether that is the state behind the sample's own action chunk, or at the end of its episode.
    goal_at: str = "chunk"
    # Of Stage 1's samples; the others have no goal, as all of Stage 2's: the switch is exact for those. They teach the
    # habit all the same: where the scene implies the task (examples/compare, setting certain, one world) 11 of a
    # hundred instructions of `task` were followed with 0.9, 2 with 0.5, none with no goal, and 75 by a stock policy.
    goal_share: float = 0.9

    def __post_init__(self) -> None:
        choose("prior.goal", self.goal, GOALS)
        choose("prior.goal_at", self.goal_at, ENDS)
        if not 0 < self.goal_share < 1:
            raise AptError(
                f"prior.goal_share is {self.goal_share}; write a share in (0, 1): Stage 2 starts from Stage 1 as it "
                "is without a goal, so some samples must have none."
            )


def check(prior: Prior, prefix: str, cache: str) -> None:
    """
    Raises:
        AptError: a goal together with what cannot hold one.
    """
    if prior.goal == "none":
        return
    if prefix == "native":
        raise AptError(
            f"prior.goal is {prior.goal!r}, and prefix=native lets Stage 1 read the words as well: it would learn "
            "nothing about goals that they do not say. Write prefix=isolated (the default), or drop --apt.prior.goal."
        )
    if cache:
        raise AptError(
            f"prior.goal is {prior.goal!r}, and a feature cache holds a frame's prefix without a goal: Stage 1 would "
            "read goals that are not there. Drop --apt.cache, or --apt.prior.goal."
        )
