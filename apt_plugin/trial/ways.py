"""The ways of training that a trial compares, the simplest first: that is the one to take where two do equally well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apt_plugin.errors import AptError
from apt_plugin.launch import WARMUP, split
from apt_plugin.run import budget

if TYPE_CHECKING:
    from apt_plugin.hosts.adapter import Adapter
    from apt_plugin.trial.pilot import Pilot

Given = Sequence[tuple[str, str]]  # (name, value) of each `--apt.` flag that the user wrote
RECIPE = "apt"
BOTH = ("untested",)  # of ours, what warm-up takes too
OWN_TO_WARMUP = ("frozen_share",)
LOOKED_AT = ("--apt.prove=false", "--apt.listen=0")  # a short run is not proven, and asked by the trial


@dataclass(frozen=True)
class Way:
    """One way of training.

    Args:
        name: as `--trial.arms` has it. title, about: in the words of the field.
        recipe: what `--recipe` is called for it; "" for the host's own training.
        expert_only: the host freezes its VLM. one_stage: the gates are there from the first step.
    """

    name: str
    title: str
    about: str
    recipe: str = ""
    expert_only: bool = False
    one_stage: bool = False

    def host_flags(self, pilot: Pilot) -> Mapping[str, str]:
        """What it changes in the host's own flags."""
        return pilot.expert_only if self.expert_only else {}

    def our_flags(self, pilot: Pilot, given: Given) -> list[str]:
        """What stands behind the host's command."""
        names = {name.replace("-", "_") for name, _ in given}
        return [*self.named(given), *(self._stage1(pilot, names) if self.recipe == RECIPE else ())]

    def named(self, given: Given) -> list[str]:
        """The recipe, and of the user's flags those that it knows."""
        if not self.recipe:
            return []
        if self.recipe == WARMUP:
            fits = [(name, value) for name, value in given if name.replace("-", "_") in (*BOTH, *OWN_TO_WARMUP)]
        else:
            fits = [(name, value) for name, value in given if name.replace("-", "_") not in OWN_TO_WARMUP]
        return ["--recipe", self.recipe, *(f"--apt.{name}={value}" for name, value in fits)]

    def _stage1(self, pilot: Pilot, given: set[str]) -> list[str]:
        """How long the first stage of the recipe is, where the user did not say."""
        if self.one_stage:
            return [f"--apt.stage1.{pilot.steps_flag}=1"]
        own = {"stage1.share", f"stage1.{pilot.steps_flag.replace('-', '_')}"} & given
        return [] if own else [f"{budget.FLAG}={budget.ASKED}"]

    def short_flags(self, pilot: Pilot, given: Given, cache: Path | None = None) -> list[str]:
        """The same for a short run.

        Args:
            cache: of features, that the recipe's ways share.
        """
        more = LOOKED_AT if cache is None else (*LOOKED_AT, f"--apt.cache={cache}")
        return [*self.our_flags(pilot, given), *(more if self.recipe == RECIPE else ())]


WAYS = (
    Way("own", "your own training", "your command as it stands"),
    Way("expert-only", "action expert only", "your command with the VLM frozen throughout", expert_only=True),
    Way("warm-up", "warm-up", "the VLM frozen for the first steps, then trained", recipe=WARMUP),
    Way(
        "gated", "gated language in one stage", "language through gates, without a first stage", RECIPE, one_stage=True
    ),
    Way("two-stage", "two stages", "the action expert without language first, then language through gates", RECIPE),
)


def check_cache(host: Adapter, command: Sequence[str], ours: Given, tried: Sequence[Way], pilot: Pilot) -> None:
    """Whether a cache of features would be read.

    Args:
        ours: `--apt.` flags of the command. tried: the ways.

    Raises:
        AptError: it would not.
    """
    reading = [way for way in tried if way.recipe == RECIPE]
    if not reading:
        raise AptError("--trial.cache: only gated and two-stage read a cache, and neither is tried. Drop it.")
    stages = host.stages(split([*command, *reading[0].our_flags(pilot, ours)], host.name))
    if stages is not None and stages.recipe.vlm != "frozen":
        raise AptError(
            "--trial.cache: behind the first stage the VLM trains, as by your command, so features of it cannot be "
            "kept. Drop it, or freeze the VLM in your command."
        )


def fitting(host: Adapter, command: Sequence[str], names: Sequence[str]) -> tuple[list[Way], dict[str, str]]:
    """The ways to try, and name -> why it does not fit this command.

    Args:
        names: those that the user wrote; empty for all that fit.

    Raises:
        AptError: one that was written does not fit; fewer than two are left; a policy that no recipe fits.
    """
    why = _misfits(host, command)
    if odd := [name for name in names if name in why]:
        raise AptError(f"--trial.arms names {odd[0]}, and that does not fit this command: {why[odd[0]]}.")
    found = [way for way in WAYS if (way.name in names if names else way.name not in why)]
    return found, {} if names else why


def _misfits(host: Adapter, command: Sequence[str]) -> dict[str, str]:
    stages = host.stages(split([*command, "--recipe", "apt"], host.name))
    if stages is None:
        raise AptError(f"A trial takes a training command of {host.name}, such as you would start by hand.")
    vlm, why = stages.recipe.vlm, {}
    if vlm == "frozen":
        why["expert-only"] = "your own command trains nothing of the VLM, so it is the same as own"
        why["warm-up"] = "your own command trains nothing of the VLM, so there is nothing to begin later"
    elif vlm == "lora":
        why["expert-only"] = "your own command trains LoRA factors, and what they are on is your choice"
    if (lacks := host.unsupported.get("expert-only")) is not None:
        why.setdefault("expert-only", lacks.rstrip("."))
    return why
