"""Work through the jobs: several processes, started here or by hand, take what nobody has; done ones are skipped."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from apt_compare.plan import Job, Keyed, Shelf
from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS

Each = TypeVar("Each", bound=Keyed)


def work(jobs: Sequence[Job], out: Path, processes: int = 1, progress: bool = True) -> int:
    """Do every job that is not settled; returns how many this process did.

    A run that fails leaves its traceback under `<out>/failed` and is not tried again before that file is removed.

    Raises:
        AptError: no jobs, or the host is not usable here.
    """
    if not jobs:
        raise AptError("No runs match. See what there is: apt-compare plan.")
    HOSTS["lerobot"].require_training()
    logging.getLogger().setLevel(logging.WARNING)  # a line per split of every run would drown the progress
    shelf, helpers = Shelf(out), [_helper() for _ in range(processes - 1)]
    took: list[float] = []
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"),
            disable=not progress,
        ) as bar:  # fmt: skip
            task = bar.add_task("compare", total=len(jobs), left="")
            for job in unclaimed(jobs, shelf):
                done = sum(shelf.settled(each) for each in jobs)
                bar.update(
                    task,
                    completed=done,
                    description=job.key.rpartition("--")[0],
                    left=_left(took, jobs, done, processes),
                )
                took.append(_one(job, shelf))
            bar.update(task, completed=sum(shelf.settled(each) for each in jobs), description="compare", left="")
        for helper in helpers:
            helper.wait()
    finally:
        for helper in helpers:
            if helper.poll() is None:
                helper.terminate()
    return len(took)


def unclaimed(jobs: Sequence[Each], shelf: Shelf) -> Iterator[Each]:
    """Jobs this process has claimed, one at a time; the caller has done one when it asks for the next."""
    for job in jobs:
        claim = shelf.claim(job)
        if claim is not None:
            try:
                yield job
            finally:
                claim.release()


def _one(job: Job, shelf: Shelf) -> float:
    from apt_compare.training import job as training  # torch and lerobot, which `plan` and `report` do without

    began = time.monotonic()
    try:
        result = training.run(job.setting, job.arm, job.seed, job.budget, job.rate, shelf.out)
    except Exception:
        files.write_bytes(shelf.failure(job), traceback.format_exc().encode())
    else:
        shelf.keep(job, result)
    return time.monotonic() - began


def _left(took: Sequence[float], jobs: Sequence[Job], done: int, processes: int) -> str:
    if not took:
        return ""
    seconds = sum(took) / len(took) * (len(jobs) - done) / processes
    return f"about {seconds / 60:.0f} min left"


def _helper() -> subprocess.Popen:
    """The same command line once more, quiet, taking jobs from the other side of the claims."""
    argv = [each for each in sys.argv[1:] if not each.startswith("--processes=")]
    if "--processes" in argv:
        at = argv.index("--processes")
        del argv[at : at + 2]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "apt_compare", *argv, "--processes=1", "--quiet"], env=env)
