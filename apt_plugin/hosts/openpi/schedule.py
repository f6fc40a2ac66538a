"""openpi's steps and learning-rate schedule, as its own parser reads them, and the flags that set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apt_plugin.run import budget
from apt_plugin.run.flags import as_flag

STEPS = "num-train-steps"
# An inverse-square-root schedule has no decay in steps: its time scale stays as it is.
LENGTHS = {"lr-schedule.warmup-steps": "warmup_steps", "lr-schedule.decay-steps": "decay_steps"}


def plain(own: Mapping[str, str]) -> dict[str, str]:
    """Flags of a stage by the names of this file, however they were spelt."""
    return {name.replace("_", "-"): value for name, value in own.items()}


def tokens(flags: Mapping[str, str]) -> list[str]:
    return [as_flag(name, value, switches=True) for name, value in flags.items()]


def without_lengths(own: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in plain(own).items() if name not in (STEPS, *LENGTHS)}


def plan(whole: Any, wanted: tuple[str, ...], share: float, own: Mapping[str, Mapping[str, str]]) -> budget.Plan:
    """
    Args:
        whole: the TrainConfig of the command without what a stage says of its length.
        own: stage -> flags of that stage alone.
    """
    schedule = {
        flag: int(getattr(whole.lr_schedule, name))
        for flag, name in LENGTHS.items()
        if hasattr(whole.lr_schedule, name)
    }
    given = {stage: plain(flags) for stage, flags in own.items()}
    return budget.plan(whole.num_train_steps, flag=STEPS, schedule=schedule, share=share, wanted=wanted, own=given)
