"""One budget: the host's own number of steps is the total of both stages, and schedules keep their shape in each.

A host's adapter says what the command's steps and schedule are and how the flags are called; what a stage gets of them
is decided here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)
# Of a hundred unseen instructions 25, 30, 40, 48 and 54 were followed with three quarters, a half, a quarter, a tenth
# and none of the steps in Stage 1 (examples/compare, setting random, frozen VLM, 5 seeds). 0 is a single step, which
# the switch and its proofs need.
SHARE = 0.0
# Where something is asked of Stage 1: data or flags of its own, a cache (which computes every frame), a goal.
ASKED = 0.1
# The published variants train both stages equally long.
PRESET_SHARES = {"paper": 0.5, "release": 0.5}
FLAG = "--apt.stage1.share"


@dataclass(frozen=True)
class Plan:
    """What each stage is given, by the host's names.

    Args:
        steps: stage -> gradient steps.
        flags: stage -> host flag -> value, steps and schedule; what the user set for that stage is not among them.
        says: one line for the log.
    """

    steps: Mapping[str, int]
    flags: Mapping[str, dict[str, str]] = field(default_factory=dict)
    says: str = ""


def count(flag: str, written: str | int) -> int:
    """A length in steps as somebody wrote it.

    Raises:
        AptError: no whole number.
    """
    try:
        return int(written)
    except ValueError as error:
        raise AptError(f"--{flag} is {written!r}; write a whole number of steps, such as 30000.") from error


def divide(total: int, share: float, own: Mapping[str, int], flag: str) -> dict[str, int]:
    """Stage -> steps.

    Args:
        total: the command's own steps, for both stages. share: of Stage 1, in [0, 1); 0 is a single step.
        own: stage -> steps that the user wrote for it; they win, and Stage 2 gets the rest of the total.
        flag: what the host calls its steps.

    Raises:
        AptError: nothing is left for Stage 2.
    """
    first = own.get("1", min(max(1, round(share * total)), max(1, total - 1)))
    second = own.get("2", total - first)
    if second < 1:
        raise AptError(
            f"--{flag} is {total}, the total of both stages, and Stage 1 takes {first} of it: nothing is left for "
            f"Stage 2. Raise --{flag}, or write --apt.stage1.{flag} and --apt.stage2.{flag}."
        )
    return {"1": first, "2": second}


def scaled(value: int, steps: int, total: int) -> int:
    """A length in steps of a run of `total`, in a stage of `steps`: 0 stays 0, anything else is 1 or more."""
    return value and max(1, round(value * steps / total))


def plan(
    total: int,
    *,
    flag: str,
    schedule: Mapping[str, int],
    share: float,
    wanted: tuple[str, ...],
    own: Mapping[str, Mapping[str, str]],
) -> Plan:
    """What each wanted stage is given. One stage alone has the whole of the command's steps and its schedule.

    Args:
        total: the command's own steps. flag: what the host calls them.
        schedule: the host's flag -> a length in steps of the whole command (warm-up, decay).
        share: of Stage 1. wanted: the stages of this run.
        own: stage -> what the user wrote for it alone, by the names of `flag` and `schedule`.

    Raises:
        AptError: see `divide`.
    """
    written = {stage: count(f"apt.stage{stage}.{flag}", own[stage][flag]) for stage in wanted if flag in own[stage]}
    steps = divide(total, share, written, flag) if len(wanted) == 2 else {s: written.get(s, total) for s in wanted}
    whole = sum(steps.values())
    flags = {}
    for stage, length in steps.items():
        # A total that nobody kept to (both stages have steps of their own) is still what the schedule was written for.
        given = {name: str(scaled(value, length, max(whole, total))) for name, value in schedule.items()}
        flags[stage] = {name: value for name, value in {flag: str(length), **given}.items() if name not in own[stage]}
    return Plan(steps, flags, _says(total, steps, flags, flag, own) if len(wanted) == 2 else "")


def _says(total: int, steps: Mapping[str, int], flags: Mapping, flag: str, own: Mapping) -> str:
    parts = []
    for stage in steps:
        fitted = [f"{name}={value}" for name, value in flags[stage].items() if name != flag]
        more = f" ({', '.join(fitted)})" if fitted else ""
        parts.append(f"Stage {stage} {steps[stage]}{' as you wrote' if flag in own[stage] else ''}{more}")
    return f"Of --{flag} {total}, the total of both stages: {'; '.join(parts)}."
