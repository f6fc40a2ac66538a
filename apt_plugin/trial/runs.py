"""The short runs of a trial, one after another; what is done stays done, and several processes share them.

    <trial>/<way>-<seed>/run/           what the host writes; gone once the policy has answered
    <trial>/<way>-<seed>/trained.json   the training came to its end: its seconds, and later those of asking
    <trial>/<way>-<seed>/answer.json    the policy was asked
    <trial>/<way>-<seed>/steps-before-N/answer.json  a checkpoint N steps before the end was asked
    <trial>/<way>-<seed>/failed.json    it could not be trained or asked, and why; tried again when the trial goes on

A run that was killed begins anew: it is short, and its host would have to be asked how to go on with it. Who does a run
holds its folder's lock, so the same command, started again beside a trial, takes other runs of it.
"""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError, last_words
from apt_plugin.run import child, lock
from apt_plugin.trial.answer import Answer, read

logger = logging.getLogger(__name__)
RUN, TRAINED, ANSWER, FAILED = "run", "trained.json", "answer.json", "failed.json"
POINT = "steps-before-"
# What `child.call` returns where a signal reached the trial itself: then nothing else is started.
ENDED = {128 + getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)}


@dataclass(frozen=True)
class Short:
    """One short run.

    Args:
        title: for the log. train: trains into a folder that is not there yet; its exit status.
        ask: leaves `answer.json` in the run's folder; its exit status.
        expected: its seconds, asking included, where they were measured.
    """

    way: str
    seed: int
    title: str
    train: Callable[[Path], int]
    ask: Callable[[Path], int]
    expected: float | None = None

    def folder(self, trial: Path) -> Path:
        return trial / f"{self.way}-{self.seed}"

    def done(self, trial: Path) -> bool:
        return (self.folder(trial) / ANSWER).is_file()


class EndedError(Exception):
    """A signal came."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


def carry(
    runs: Sequence[Short], trial: Path, keep: bool = False, before: Callable[[Short], None] = lambda run: None
) -> int:
    """Train and ask each run that has not answered yet. A run that fails does not stop the others. One that another
    process has is waited for, behind all others, and done here where that process gives it up.

    Args:
        keep: keep the hosts' checkpoints. before: called with a run that begins.

    Returns:
        0, 1 where a run failed, or 128 + n where signal n ended the trial.
    """
    left, waits = dict(enumerate(runs, 1)), False
    while left:
        for number, run in list(left.items()):
            with lock.taken(run.folder(trial)) as mine:
                if not mine:
                    continue
                del left[number]
                if run.done(trial):
                    logger.info("trial: %d of %d, %s: done.", number, len(runs), run.title)
                    _tidied(run.folder(trial), keep)  # its trial may have been killed while it was asked
                    continue
                logger.info("trial: %d of %d, %s.", number, len(runs), run.title)
                before(run)
                try:
                    _carried(run, trial, keep)
                except EndedError as end:
                    return end.status
        if left:
            if not waits:
                names = ", ".join(run.title for run in left.values())
                logger.info("trial: nothing else is left; waiting for another process, which has %s.", names)
            waits = True
            time.sleep(lock.WAIT)
    return int(any((run.folder(trial) / FAILED).is_file() for run in runs))


def _carried(run: Short, trial: Path, keep: bool) -> None:
    folder = run.folder(trial)
    try:
        _one(run, folder)
    except AptError as error:
        logger.warning("trial: %s: %s The others go on.", run.title, last_words(error))
        files.write_json(folder / FAILED, {"why": last_words(error)})
        return
    _tidied(folder, keep)


def _tidied(folder: Path, keep: bool) -> None:
    (folder / FAILED).unlink(missing_ok=True)
    if not keep:
        shutil.rmtree(folder / RUN, ignore_errors=True)


def _one(run: Short, folder: Path) -> None:
    """
    Raises:
        AptError: its training or its answer failed.
        EndedError: a signal came.
    """
    if not (folder / TRAINED).is_file():
        if (folder / RUN).exists():
            shutil.rmtree(folder / RUN)
        files.make_folder(folder)
        began = time.monotonic()
        _went_well(run.train(folder / RUN), "its training")
        files.write_json(folder / TRAINED, {"seconds": time.monotonic() - began})
    began = time.monotonic()
    _went_well(run.ask(folder), "asking it")
    if not (folder / ANSWER).is_file():
        raise AptError("asking it ended without an answer.")
    files.write_json(folder / TRAINED, files.read_json(folder / TRAINED) | {"asking": time.monotonic() - began})


def _went_well(status: int, what: str) -> None:
    if status in ENDED:
        raise EndedError(status)
    if status and (number := child.ended_by()):
        raise EndedError(128 + number)
    if status:
        raise AptError(f"{what} ended with exit status {status}; its own words stand above.")


def failed(run: Short, trial: Path) -> str:
    """Why a run has no answer; "" where it has."""
    path = run.folder(trial) / FAILED
    return str(files.read_json(path)["why"]) if path.is_file() else ""


def seconds(run: Short, trial: Path) -> float:
    """Of its training, the start of its processes included."""
    return float(files.read_json(run.folder(trial) / TRAINED)["seconds"])


def asking(run: Short, trial: Path) -> float:
    """Seconds of asking its policy, the start of that process included; 0 of a run that was not asked yet."""
    return float(files.read_json(run.folder(trial) / TRAINED).get("asking", 0.0))


def points(run: Short, trial: Path, steps: int) -> list[tuple[int, Answer]]:
    """(step, what the policy of that step said), the last included; empty where only that was asked.

    Args:
        steps: of the run.
    """
    folder = run.folder(trial)
    earlier = [path for path in folder.glob(f"{POINT}*") if (path / ANSWER).is_file()]
    places = {steps - int(path.name.removeprefix(POINT)): path for path in earlier} | {steps: folder}
    return [(step, read(files.read_json(places[step] / ANSWER))) for step in sorted(places)] if earlier else []


def answer(run: Short, trial: Path) -> Any:
    """What its policy said; None where it said nothing."""
    path = run.folder(trial) / ANSWER
    return files.read_json(path) if path.is_file() else None
