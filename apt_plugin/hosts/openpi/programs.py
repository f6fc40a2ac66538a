"""openpi's scripts in a command line, and the processes that run them under the recipe.

The host parses its own flags against its own config; what is ours travels in one environment variable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.hosts.adapter import Command

CHILD = "apt_plugin.hosts.openpi"
JOB = "APT_OPENPI_JOB"
TRAIN = ("train.py", "train_pytorch.py")
SERVE = "serve_policy.py"
SCRIPTS = (*TRAIN, SERVE, "compute_norm_stats.py")


@dataclass(frozen=True)
class Program:
    """Where the host's script stands in a command line."""

    before: list[str]  # uv run, torchrun ..., env; python itself left out
    script: Path
    flags: list[str]

    @property
    def trains(self) -> bool:
        return self.script.name in TRAIN

    def child(self, job: dict[str, Any], flags: Sequence[str], alone: bool = False) -> Command:
        """The process that derives our config and then runs the host's own script.

        Args:
            alone: one process whatever launcher stands in front: it only looks.
        """
        launcher = [] if alone else self.before
        if not launcher:
            launcher = [sys.executable]
        elif "torchrun" not in {Path(t).name for t in launcher} and "torch.distributed.run" not in launcher:
            launcher = [*launcher, "python"]
        return Command([*launcher, "-m", CHILD, str(self.script), *flags], {JOB: json.dumps(job)})


def find_program(command: Sequence[str]) -> Program:
    """The openpi script in a command line.

    Raises:
        AptError: none, or no such file.
    """
    for index, token in enumerate(command):
        if Path(token).name in SCRIPTS:
            if not Path(token).is_file():
                raise AptError(f"There is no {token} here. Run this in an openpi checkout, or write the script's path.")
            before = [t for t in command[:index] if not Path(t).name.startswith("python")]
            return Program(before, Path(token).resolve(), list(command[index + 1 :]))
    raise AptError(f"No openpi script in {' '.join(command)!r}. Write e.g. scripts/train.py pi05_libero --exp-name=e1.")
