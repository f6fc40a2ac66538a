"""apt-plugin trial <the host's training command> [--trial.* V] [--apt.* V]

Trains the same policy in several ways, each for a small share of the command's own steps and on the same episodes;
asks each, on episodes that nothing was trained on, whether it listens; and writes one page that ends with the full
command of the way that did best. The pick is a hint: examples/trial.md says how often it was right.

What is tried:
    --trial.arms own,warm-up        own          your own training, as the command stands
                                    expert-only  the VLM frozen throughout
                                    warm-up      the VLM frozen at first, then trained
                                    gated        language through gates, without a first stage
                                    two-stage    the whole recipe, a tenth of the steps in its first stage
                                    (all that fit your command)
    --apt.<field> V                 passed on to the ways that are ours, such as --apt.noise_draws 8
How much:
    --trial.budget 0.1              share of the command's own steps that each run gets
    --trial.hours 3                 in its place: as many steps as the whole trial has hours for, by measured seconds
    --trial.equal steps|time        what all runs have the same of; time: seconds of training steps, measured
    --trial.seeds 1                 training runs of each way
    --trial.cache true|false        where the VLM stays frozen: gated and two-stage share one feature cache (false)
What is held out, and asked about:
    --trial.held_out 0.2            share of each instruction's episodes that nothing trains on
    --trial.scenes FILE             JSON, episode -> name of its scene: then pairs of scene and instruction are, too
    --trial.frames 64               frames of those episodes
    --trial.points 1                checkpoints of each run that are asked, at equal distances: a curve on the page
Where:
    --trial.output apt-trial        the only folder that is written; the same command goes on in it; delete it at will.
                                    Started twice at once, on any machine that sees it, the command shares the runs
    --trial.keep true|false         keep the short runs' checkpoints (false)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apt_plugin.errors import AptError, choose
from apt_plugin.launch import between, take
from apt_plugin.trial.pace import EQUAL
from apt_plugin.trial.ways import WAYS

PREFIX = "--trial."
KNOWN = (
    "arms",
    "budget",
    "hours",
    "equal",
    "seeds",
    "cache",
    "held_out",
    "scenes",
    "frames",
    "points",
    "output",
    "keep",
)
NOT_YET = {"flops": "no host counts the FLOPs of a command before it runs"}
NEVER = {  # of ours: what a trial decides by itself
    "stage": "a trial runs whole ways of training",
    "prove": "a short run is not proven; the full command is",
    "listen": "a trial asks by itself: --trial.frames says on how many frames",
    "cache": "a trial has a feature cache of its own, --trial.cache true",
}


@dataclass(frozen=True)
class Options:
    """How a trial is done.

    Args:
        arms: names of ways; empty for all that fit.
        hours: for all of it, in place of a budget. equal: what all runs have the same of.
        cache: the ways that read features of a frozen VLM share them.
        ours: (name, value) of each `--apt.` flag, without the dashes and "apt.".
    """

    arms: tuple[str, ...] = ()
    budget: float = 0.1
    hours: float | None = None
    equal: str = "steps"
    seeds: int = 1
    held_out: float = 0.2
    scenes: Path | None = None
    frames: int = 64
    points: int = 1
    cache: bool = False
    output: Path = Path("apt-trial")
    keep: bool = False
    ours: tuple[tuple[str, str], ...] = ()

    @property
    def measured(self) -> bool:
        """Whether the seconds of a step must be known."""
        return self.hours is not None or self.equal != "steps"


def read(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """Our flags, and the host's command without them.

    Raises:
        AptError: an unknown flag, a value that cannot be followed, or a recipe: the trial names those.
    """
    command, taken = take(argv, "--recipe", PREFIX, "--apt.")
    if any(name == "--recipe" for name, _ in taken):
        raise AptError("--recipe is what a trial finds out: drop it, and write --trial.arms for some ways only.")
    ours = tuple((name.removeprefix("--apt."), value) for name, value in taken if name.startswith("--apt."))
    check_ours([name for name, _ in ours])
    given = {name.removeprefix(PREFIX).replace("-", "_"): v for name, v in taken if name.startswith(PREFIX)}
    for name in given:
        choose(PREFIX + name, name, KNOWN)
    equal = choose("--trial.equal", given.get("equal", "steps"), (*EQUAL, *NOT_YET))
    if equal in NOT_YET:
        raise AptError(f"--trial.equal {equal} is not here: {NOT_YET[equal]}. Write --trial.equal time.")
    if "hours" in given and "budget" in given:
        raise AptError("--trial.hours and --trial.budget both say how long the runs are: drop one.")
    if (cache := _switch("cache", given)) and ("hours" in given or equal != "steps"):
        raise AptError(
            "--trial.cache: the first run that reads the cache makes it, so its seconds tell nothing of the others'. "
            "Drop --trial.hours and --trial.equal time, or the cache."
        )
    plain = Options()
    for name in ("scenes", "output"):
        if given.get(name) in ("", "true"):  # nothing behind the flag
            raise AptError(f"{PREFIX}{name} names nothing: write {PREFIX}{name} and a path, or drop it.")
    scenes = given.get("scenes")
    return Options(
        arms=_arms(given.get("arms", "")),
        budget=between("--trial.budget", given.get("budget", plain.budget), "0.1"),
        hours=None if "hours" not in given else _hours(given["hours"]),
        equal=equal,
        seeds=_count("seeds", given.get("seeds", plain.seeds), 1),
        held_out=between("--trial.held_out", given.get("held_out", plain.held_out), "0.2", "the episodes"),
        scenes=None if scenes is None else Path(scenes),
        frames=_count("frames", given.get("frames", plain.frames), 6),
        points=_count("points", given.get("points", plain.points), 1),
        output=Path(given.get("output", plain.output)),
        cache=cache,
        keep=_switch("keep", given),
        ours=ours,
    ), command


def check_ours(names: Iterable[str], where: str = "") -> None:
    """
    Args:
        names: of flags of ours that somebody wrote; where: if not in the command.

    Raises:
        AptError: one that a trial decides by itself.
    """
    for name in names:
        if (why := NEVER.get(name)) is not None:
            raise AptError(f"--apt.{name}{where}: {why}. Drop it.")


def _arms(value: str) -> tuple[str, ...]:
    """
    Raises:
        AptError: an unknown way, or fewer than two different ones.
    """
    names = tuple(name for name in value.split(",") if name)
    for name in names:
        choose("--trial.arms", name, [way.name for way in WAYS])
    if value and len(set(names)) < 2:
        raise AptError(f"--trial.arms is {value!r}; a comparison takes two ways or more, such as own,warm-up.")
    return names


def _switch(name: str, given: Mapping[str, str]) -> bool:
    return choose(PREFIX + name, given.get(name, "false"), ("true", "false")) == "true"


def _hours(value: str) -> float:
    try:
        hours = float(value)
    except ValueError:
        hours = 0.0
    if not 0 < hours < math.inf:
        raise AptError(f"--trial.hours is {value!r}; write a number of hours above 0, such as 3.")
    return hours


def _count(name: str, value: str | int, least: int) -> int:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise AptError(f"{PREFIX}{name} is {text!r}; write a whole number, {least} or more.")
    return int(text)
