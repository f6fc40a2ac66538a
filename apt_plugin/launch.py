"""`apt-plugin run <the host's own command> --recipe apt [--apt.* ...]`: what is ours in a command line.

Flags of ours:
    --recipe apt                    name the recipe; without it the host's command runs untouched. A program that acts
                                    (a server, an evaluation) needs none for --apt.guidance_scale S
    --recipe warmup                 the host's own training with the VLM frozen for the first steps, then trained
    --apt.frozen_share 0.3          their share; with --recipe apt that of Stage 2's steps, 0 where it is left out
    --apt.stage 1|2|both            which stages (both)
    --apt.config NAME|FILE          a recipe that comes with the plugin (pi05), or a YAML file; flags override it
    --apt.preset default|paper|release|listening
    --apt.prove true|false          run the contracts on Stage 1's result before Stage 2 (true)
    --apt.listen FRAMES             after Stage 2, ask on so many frames whether the policy listens (32; 0: do not)
    --apt.untested                  train on a version of the host that nobody tested; the checkpoint's record says so
    --apt.stage1.share 0            Stage 1's share of the host's own number of steps (0: a single one); Stage 2 has
                                    the rest. 0.1 where something is asked of Stage 1: flags of its own, a cache, a goal
    --apt.stage1.<host flag> V      a flag of the host for Stage 1 only: its own data, steps, batch size, ...
    --apt.stage2.<host flag> V      the same for Stage 2
    --apt.cache DIR                 compute the frozen VLM's features once, then train from them (see cache --help)
    --apt.<recipe field> V          e.g. --apt.noise_draws 8 --apt.fusion.kind host
Everything else belongs to the host and is passed on as it is.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apt_plugin.errors import AptError, choose, did_you_mean
from apt_plugin.recipe import Recipe, check_idle, fields_of, from_flat, load_yaml
from apt_plugin.recipes import find
from apt_plugin.run import budget
from apt_plugin.stages import PRIOR

logger = logging.getLogger(__name__)

WARMUP = "warmup"
RECIPES = ("apt", WARMUP)
# The share that the comparison ran (examples/compare, arm warmup): 71 of a hundred unseen instructions, 64 without.
FROZEN_SHARE = 0.3
# Of the recipe, what a program that acts may choose anew: all else was settled when the checkpoint was trained.
ACTING = ("guidance_scale",)
STAGE_FLAGS = ("stage1.<host flag>", "stage2.<host flag>")
STAGES = ("1", "2", "both")
# "on" and "off" are what YAML calls them, so a recipe file and a flag mean the same.
YES, NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True)
class Request:
    """A command line, taken apart."""

    command: list[str]  # the host's, without our flags
    recipe: Recipe | None = None  # None: the recipe was not named, the plugin stays out
    stage: str = "both"
    prove: bool = True
    listen: int = 32
    untested: bool = False
    given: frozenset[str] = frozenset()  # names of our flags that somebody wrote, those of a recipe file among them
    # Host flags for one stage only, name -> value.
    stage_flags: dict[str, dict[str, str]] = field(default_factory=lambda: {"1": {}, "2": {}})
    share: float = budget.SHARE  # Stage 1's of the host's own number of steps, where both stages run
    preset: str = "default"
    frozen_share: float | None = None  # of --recipe warmup; None: that was not named
    named: bool = True  # --recipe was written; a command that only says how to act needs none


def split(argv: Sequence[str], host: str = "") -> Request:
    """Separate our flags from the host's.

    Args:
        host: whose command it is, where that is known: named recipes are looked up among its own.

    Raises:
        AptError: an unknown recipe, stage or field; `--apt.*` without `--recipe apt`.
    """
    command, taken = take(argv, "--recipe", "--apt.")
    ours = [(name.removeprefix("--apt."), value) for name, value in taken if name != "--recipe"]
    recipe = [None, *(choose("--recipe", value, RECIPES) for name, value in taken if name == "--recipe")][-1]
    if recipe is None:
        if not ours:
            return Request(command)
        if unnamed := [name for name, _ in ours if name.replace("-", "_") not in ACTING]:
            raise AptError(f"--apt.{unnamed[0]} is given but no recipe is named. Write --recipe apt.")
    if recipe == WARMUP:
        return _warmup(command, ours)
    return dataclasses.replace(_with_recipe(command, ours, host), named=recipe is not None)


def take(argv: Sequence[str], *names: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The host's own tokens, and (name, value) of each flag of ours; one without a value is "true".

    Args:
        names: of our flags, dashes included; one that ends in a dot stands for all that begin with it.
    """
    command: list[str] = []
    ours: list[tuple[str, str]] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        name, joined, value = token.partition("=")
        if not any(name == each or (each.endswith(".") and name.startswith(each)) for each in names):
            command.append(token)
            continue
        if not joined:
            value = tokens.pop(0) if tokens and not tokens[0].startswith("--") else "true"
        ours.append((name, value))
    return command, ours


def _warmup(command: list[str], ours: list[tuple[str, str]]) -> Request:
    values = {name.replace("-", "_"): value for name, value in ours}
    untested = _boolean("untested", values.pop("untested", "false"))
    share = between("--apt.frozen_share", values.pop("frozen_share", FROZEN_SHARE), "0.3")
    if values:
        raise AptError(
            f"--apt.{next(iter(values))} belongs to --recipe apt: a warm-up is the host's own training, and takes "
            "--apt.frozen_share only. Drop it, or write --recipe apt."
        )
    return Request(command, untested=untested, frozen_share=share)


def check_named(request: Request) -> None:
    """
    Raises:
        AptError: a command that trains, with flags of ours and no recipe.
    """
    if not request.named:
        raise AptError(f"--apt.{min(request.given)} is given but no recipe is named. Write --recipe apt.")


def _with_recipe(command: list[str], ours: list[tuple[str, str]], host: str) -> Request:
    values: dict[str, Any] = {}
    for name, value in ours:
        if name == "config":
            values = load_yaml(find(value, host)) | values
    values |= {name: value for name, value in ours if name != "config"}
    given = frozenset(name if "." in name else name.replace("-", "_") for name in values)
    stage = choose("--apt.stage", str(values.pop("stage", "both")), STAGES)
    prove = _boolean("prove", values.pop("prove", "true"))
    untested = _boolean("untested", values.pop("untested", "false"))
    listen = str(values.pop("listen", Request.listen))
    if not (listen.isascii() and listen.isdecimal()):
        raise AptError(f"--apt.listen is {listen!r}; write how many frames to listen on, 0 for none.")
    share = _share(values, stage)
    flags: dict[str, dict[str, str]] = {"1": {}, "2": {}}
    for name in list(values):
        head, _, tail = name.partition(".")
        if head in ("stage1", "stage2") and tail:
            flags[head[-1]][tail] = _as_flag(values.pop(name))
    ours_too = ("preset", "stage", "config", "prove", "listen", "untested", "stage1.share")
    known = [*fields_of(), *ours_too, *STAGE_FLAGS]
    # tyro shows --apt.noise-draws in a host's --help: take what it shows.
    values = {name.replace("-", "_") if name not in known else name: value for name, value in values.items()}
    for name in values:
        if name not in known:
            raise AptError(f"Unknown recipe field --apt.{name}.{did_you_mean(name, known)}")
    preset, recipe = str(values.get("preset", "default")), from_flat(values)
    check_idle(recipe)
    return Request(command, recipe, stage, prove, int(listen), untested, given, flags, share, preset)


def _share(values: dict[str, Any], stage: str) -> float:
    """Taken out of the values: the one flag behind `stage1.` that is ours."""
    if (written := values.pop("stage1.share", None)) is None:
        goal = str(values.get("prior.goal", "none")) != "none"
        asked = goal or bool(values.get("cache")) or any(name.startswith("stage1.") for name in values)
        return budget.PRESET_SHARES.get(str(values.get("preset")), budget.ASKED if asked else budget.SHARE)
    if stage != "both":
        raise AptError(
            f"{budget.FLAG} divides the host's steps between two stages, and --apt.stage is {stage}: its steps are the "
            f"host's own. Drop {budget.FLAG}, or write --apt.stage both."
        )
    return between(budget.FLAG, written, "0.1", zero=True)


def between(flag: str, written: Any, such_as: str, of: str = "the steps", zero: bool = False) -> float:
    """
    Args:
        zero: whether 0 is a share, too.

    Raises:
        AptError: no share in (0, 1).
    """
    try:
        share = float(written)
    except (TypeError, ValueError):
        share = math.nan
    if not (0 < share < 1 or (zero and share == 0)):
        raise AptError(f"{flag} is {written!r}; write a share of {of} between 0 and 1, such as {such_as}.")
    return share


def for_acting(request: Request) -> dict[str, Any]:
    """The recipe fields that a program which trains nothing (a server, an evaluation) is to act with.

    Raises:
        AptError: a flag of ours that such a program cannot follow.
    """
    if other := sorted(request.given - set(ACTING)):
        raise AptError(
            f"--apt.{other[0]} is settled when a policy is trained: the checkpoint holds the value (apt.json). A "
            f"program that acts takes --apt.{', --apt.'.join(ACTING)} only. Drop --apt.{', --apt.'.join(other)}."
        )
    return {name: getattr(request.recipe, name) for name in ACTING if name in request.given}


def acting_as(recipe: Recipe, stage: int, chosen: Mapping[str, Any]) -> Recipe:
    """A checkpoint's recipe with what was chosen for acting; each change is logged.

    Raises:
        AptError: a choice about language, on a prior that has no pathway for it.
    """
    for name, value in chosen.items():
        if stage == PRIOR:
            raise AptError(f"--apt.{name} needs a Stage-2 checkpoint: this one is Stage 1, which hears no instruction.")
        logger.info("APT: %s is %s here; the checkpoint says %s.", name, value, getattr(recipe, name))
    return dataclasses.replace(recipe, **chosen)


def check_one_process(request: Request, stage_flags: bool, host_flags: bool = False) -> None:
    """Refuse what a door that trains one stage in one process cannot carry out.

    Args:
        stage_flags: whether the door follows --apt.stage<N>.*; host_flags: whether it passes the host's flags on.

    Raises:
        AptError: naming the flag, and where to write it instead.
    """
    if request.stage not in ("1", "2"):
        raise AptError("This door trains one stage per command: write --apt.stage 1 or --apt.stage 2.")
    if "prove" in request.given and request.prove:
        raise AptError("--apt.prove works between two stages: use `apt-plugin run`, or `apt-plugin prove CHECKPOINT`.")
    if "listen" in request.given and request.listen:
        raise AptError("--apt.listen works behind `apt-plugin run`. Here, use `apt-plugin listen` after the training.")
    own = request.stage_flags[request.stage]
    if own and not stage_flags:
        name, value = next(iter(own.items()))
        raise AptError(f"--apt.stage{request.stage}.{name}: write --{name} {value} in the host's own command here.")
    if request.command and not host_flags:
        raise AptError(f"{' '.join(request.command)!r} is no flag of the recipe: write it in the host's own command.")


def _boolean(name: str, value: Any) -> bool:
    """
    Raises:
        AptError: a word that is neither yes nor no.
    """
    word = str(value).lower()
    if word not in YES + NO:
        raise AptError(f"--apt.{name} is {str(value)!r}; write true or false.")
    return word in YES


def _as_flag(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
