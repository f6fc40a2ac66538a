"""A warm-up: the VLM is frozen for the first share of the steps, then trained, under one schedule.

An action expert that knows nothing yet should not train the VLM. `--recipe warmup` is that in the host's own training:
policy, optimizer, schedule and checkpoints are the host's. Stage 2 of the recipe does the same by `frozen_share`. Which
half a step belongs to is told by its number, so a resumed run goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.run import preflight
from apt_plugin.run.preflight import Facts

FROZEN_SHARE = "APT_FROZEN_SHARE"  # in the environment of a training process
ONLY_LOOK = "APT_ONLY_LOOK"  # beside it: the file to leave the facts in; nothing is trained


def frozen_steps(share: float, total: int, flag: str) -> int:
    """How many steps the VLM is frozen for.

    Args:
        share: of the steps, in (0, 1); flag: the host's, of their number.

    Raises:
        AptError: no step would be left.
    """
    if total < 2:
        raise AptError(f"{flag} is {total}: too few for a warm-up and a rest. Write 2 or more.")
    return min(max(1, round(share * total)), total - 1)


def in_stage(recipe: Recipe, vlm: str, total: int) -> int:
    """How many steps of a stage the VLM is frozen for before it trains; 0 where it does not, or trains from the start.

    Args:
        vlm: frozen, lora or full, what the stage does with it; total: the stage's steps.
    """
    return 0 if vlm == "frozen" else min(round(recipe.frozen_share * total), total - 1)


def look(gather: Callable[[], Facts], share: float) -> None:
    """Before the first step of a training process: what would stop or spoil it; one process looks for all.

    Args:
        gather: the facts of the command.

    Raises:
        AptError: what would stop it. SystemExit: nothing but looking was asked for.
    """
    answer = os.environ.get(ONLY_LOOK)
    if os.environ.get("RANK", "0") == "0":
        found = gather()
        vlm = None
        if found.steps is not None and found.steps > 0:
            frozen = frozen_steps(share, found.steps, found.flag("steps"))
            vlm = f"nothing trains for the first {frozen} of {found.steps} steps, then what your command trains of it"
        facts = {"": dataclasses.replace(found, vlm=vlm, proof_memory=None)}
        if answer is None:
            preflight.stop(facts)
        else:
            preflight.write(Path(answer), facts)
    if answer is not None:
        raise SystemExit(0)


def told(step: int, frozen: int, total: int) -> str:
    """The log line of the half that a step belongs to."""
    does = "trains from here on" if step >= frozen else f"is frozen for the first {frozen}"
    return f"APT: step {step} of {total}: the VLM {does}."


def nothing_trains(how: str) -> AptError:
    """The command trains nothing of the VLM.

    Args:
        how: what to write, so that it does.
    """
    return AptError(
        f"--recipe warmup trains the VLM behind the warm-up, and your command trains nothing of it. Write {how}, or "
        "drop --recipe warmup."
    )


def no_training(program: str, training: str) -> AptError:
    return AptError(f"--recipe warmup is for training, and {program} is not: write it behind {training}.")
