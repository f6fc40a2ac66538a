"""lerobot's programs in a command line, and the processes that run them with our policies registered."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.hosts.adapter import QUIET, Command
from apt_plugin.hosts.lerobot.checkpoints import openable
from apt_plugin.run.facts import JOB
from apt_plugin.run.flags import Flags

logger = logging.getLogger(__name__)
CHILD = "apt_plugin.hosts.lerobot"
TRAIN = "lerobot-train"
CHECK = "apt-check"  # a program of ours: tells the facts of a training command's stages, see `preflight`


@dataclass(frozen=True)
class Program:
    """Where the host's program stands in a command line."""

    before: list[str]  # python, accelerate launch ..., torchrun ...
    name: str  # lerobot-train, lerobot-eval, ..., or a module of lerobot
    flags: list[str]

    @property
    def asks_help(self) -> bool:
        return "-h" in self.flags or "--help" in self.flags


def find_program(command: Sequence[str]) -> Program:
    """The lerobot program in a command line.

    Raises:
        AptError: there is none.
    """
    for index, token in enumerate(command):
        name = Path(token).name
        if name.startswith("lerobot-") and not token.startswith("--"):
            return Program(_without_python(command[:index]), name, _opened(command[index + 1 :]))
        if token.startswith("lerobot.") and index and command[index - 1] in ("-m", "--module"):
            script = token.rsplit(".", 1)[-1].replace("_", "-")
            name = script if token.startswith("lerobot.scripts.") else token
            return Program(_without_python(command[: index - 1]), name, _opened(command[index + 1 :]))
    raise AptError(f"No lerobot program in {' '.join(command)!r}. Write e.g. lerobot-train ...")


# lerobot reads any prefix, but takes this one for a field of the policy beside --policy.path, which Stage 2 has.
_DISCOVERED, _PACKAGES = "--policy.discover_packages_path", "--packages.discover_packages_path"


def _opened(tokens: Sequence[str]) -> list[str]:
    """The host's flags; a run that --policy.path names stands for the policy that it left last."""
    tokens = [_PACKAGES + token[len(_DISCOVERED) :] if token.startswith(_DISCOVERED) else token for token in tokens]
    named = next((token.partition("=")[2] for token in tokens if token.startswith("--policy.path=")), "")
    if not named or (folder := openable(Path(named))) == Path(named):
        return list(tokens)
    logger.info("APT: --policy.path=%s: the policy that this run left last is %s", named, folder)
    return Flags.read(tokens).with_({"policy.path": str(folder)}).tokens()


def _without_python(tokens: Sequence[str]) -> list[str]:
    return [t for t in tokens if not Path(t).name.startswith("python")]


def found(name: str) -> str:
    """A program on the PATH, or beside this interpreter: `uv run` and an unactivated environment have it only there."""
    beside = Path(sys.executable).parent / name
    return shutil.which(name) or (str(beside) if beside.is_file() else name)


def child(program: Program, flags: Sequence[str]) -> list[str]:
    """The process that registers our policies and then runs the host's own script."""
    launcher = [found(program.before[0]), *program.before[1:]] if program.before else [sys.executable]
    return [*launcher, "-m", CHILD, program.name, *flags]


def check(job: dict[str, Any]) -> Command:
    """The one process that parses both stages' flags; without a launcher: it only looks."""
    return Command([sys.executable, "-m", CHILD, CHECK], {**QUIET, JOB: json.dumps(job)})


def flags_of(command: Sequence[str]) -> list[str]:
    """The host's flags in a training command of ours."""
    return list(command[_place(command) + 1 :])


def _place(command: Sequence[str]) -> int:
    return len(command) - 1 - list(reversed(command)).index(TRAIN)


def for_cache(command: Sequence[str], action: str) -> list[str]:
    """The same processes with the same flags, making or checking the cache in place of training."""
    place = _place(command)
    return [*command[:place], f"apt-cache-{action}", *command[place + 1 :]]
