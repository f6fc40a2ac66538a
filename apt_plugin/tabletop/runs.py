"""Runs of the host's own commands side by side, one thread each, with a progress bar over their logs.

The host prints one tqdm line per step; it goes to a file, and the bar is read off that file, so that two trainings
can share a terminal.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from apt_plugin.errors import AptError

_BAR = re.compile(rb"Training:\s+\d+%\|[^|]*\|\s*(\d+)/(\d+)")
_STAMP = re.compile(r"INFO (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")


@dataclass(frozen=True)
class Arm:
    """A policy to roll out and what its training took."""

    name: str
    checkpoint: Path
    steps: str
    seconds: float


@dataclass
class Run:
    """One command, its log and what it took."""

    name: str
    command: list[str]
    log: Path
    steps: int  # optimiser steps over all its stages
    process: subprocess.Popen | None = field(default=None, repr=False)

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        program = Path(sys.executable).parent / self.command[0]
        command = [str(program) if program.is_file() else self.command[0], *self.command[1:]]
        with open(self.log, "wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)

    def done_steps(self) -> int:
        """Steps so far: every stage's bar starts again at zero, so finished bars add up."""
        total, last = 0, 0
        for match in _BAR.finditer(self.log.read_bytes() if self.log.exists() else b""):
            now = int(match.group(1))
            if now < last:
                total += last
            last = now
        return total + last

    def training_seconds(self) -> float:
        """Wall time inside the training loops: imports, data writing and proofs cost every arm differently."""
        begin, total = None, 0.0
        for line in self.log.read_text(errors="replace").splitlines():
            stamp = _STAMP.search(line)
            if stamp is None:
                continue
            moment = datetime.datetime.fromisoformat(stamp.group(1))
            if "Start offline training" in line:
                begin = moment
            elif "End of training" in line and begin is not None:
                total += (moment - begin).total_seconds()
                begin = None
        return total

    def check(self) -> None:
        """Raise with the end of the log when the command failed."""
        if self.process is not None and self.process.returncode != 0:
            tail = self.log.read_text(errors="replace")[-1500:]
            raise AptError(f"{self.name} exited with {self.process.returncode}; the end of {self.log}:\n{tail}")


def together(runs: Sequence[Run]) -> None:
    """Run commands at the same time and wait for all of them.

    Raises:
        AptError: one failed; the others are stopped.
    """
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        tasks = {run.name: bar.add_task(run.name, total=run.steps) for run in runs}
        for run in runs:
            run.start()
        try:
            while any(run.process is not None and run.process.poll() is None for run in runs):
                for run in runs:
                    bar.update(tasks[run.name], completed=run.done_steps())
                    if run.process is not None and run.process.poll() not in (None, 0):
                        run.check()
                time.sleep(0.5)
            for run in runs:
                bar.update(tasks[run.name], completed=run.done_steps())
                run.check()
        finally:
            for run in runs:
                if run.process is not None and run.process.poll() is None:
                    run.process.terminate()
                    run.process.wait()
