"""A run that is struck at every moment, each time gone on with by the same command, ends as the run left alone.

Moments x blows, the same for every host: a host's test says how its tiny command is written and how it is resumed. The
moments are held from outside by held/sitecustomize.py. One run takes all moments of a blow in turn: each is also met
by a run that was struck before. A full disk is a small file system of its own, filled while the process is held.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from apt_plugin.stages import Record, read_record
from tests import processes
from tests.hosts.held.sitecustomize import MOMENTS

FULL = "full disk"
BLOWS = ("SIGKILL", "SIGTERM", "SIGINT", FULL)
HOOK = Path(__file__).parent / "held"
PIECE = b"\0" * (1 << 20)


@dataclass(frozen=True)
class Host:
    """How a host's test starts its run.

    Args:
        command: the run's folder -> the command, both stages with their proofs. resume: what goes on with it.
        env: the environment, with PYTHONPATH. cwd: where it is started.
    """

    command: Callable[[Path], Sequence[str | Path]]
    resume: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None

    def start(self, run: Path, log: Path, *more: str, **env: str) -> subprocess.Popen:
        path = os.pathsep.join([str(HOOK), *filter(None, [self.env.get("PYTHONPATH")])])
        with open(log, "ab") as file:
            return processes.start(
                [*self.command(run), *more], cwd=self.cwd, env={**self.env, "PYTHONPATH": path, **env},
                stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            )  # fmt: skip


@dataclass(frozen=True)
class Struck:
    """What became of one blow."""

    moment: str
    status: int
    log: str  # of the run that was struck
    left: list[int]  # processes that outlived it


def alone(host: Host, run: Path) -> dict[int, Record]:
    """The run that nobody strikes."""
    log = run.with_suffix(".log")
    status = host.start(run, log).wait(processes.HANG)
    assert status == 0, log.read_text()[-4000:]
    return records(run)


def struck(
    host: Host, run: Path, blow: str, notes: Path, moments: Sequence[str] = MOMENTS
) -> tuple[list[Struck], dict[int, Record]]:
    """A run that is struck at each moment in turn and gone on with to its end; the records that it leaves.

    Args:
        run: its folder. For a full disk it lies on a file system of its own (`small_disk`).
        notes: where logs go.
    """
    found, resume = [], ()
    for number, moment in enumerate(moments):
        held, log = notes / f"held-{number}", notes / f"{blow}-{number}.log"
        process = host.start(run, log, *resume, APT_TEST_MOMENT=moment, APT_TEST_HELD=str(held))
        end = time.monotonic() + processes.HANG
        while not held.exists():
            assert process.poll() is None, f"never came to {moment!r}:\n{log.read_text()[-4000:]}"
            assert time.monotonic() < end, f"never came to {moment!r}:\n{log.read_text()[-4000:]}"
            time.sleep(0.05)
        go = held.with_name(f"{held.name}.go")
        with strike(process, blow, run, go):
            status = process.wait(processes.HANG)
        go.touch()
        last = time.monotonic() + 10  # killed is not yet gone
        while (left := processes.members(process.pid)) and time.monotonic() < last:
            time.sleep(0.05)
        processes.end(process)
        found.append(Struck(moment, status if status >= 0 else 128 - status, log.read_text(), left))
        resume = host.resume
    log = notes / f"{blow}-end.log"
    status = host.start(run, log, *resume).wait(processes.HANG)
    assert status == 0, log.read_text()[-4000:]
    return found, records(run)


@contextmanager
def strike(process: subprocess.Popen, blow: str, run: Path, go: Path) -> Iterator[None]:
    if blow == FULL:
        with full(run):
            go.touch()
            yield
    elif blow == "SIGKILL":  # what a machine does that goes down: nobody is left to tidy up
        for pid in processes.members(process.pid):
            os.kill(pid, signal.SIGKILL)
        yield
    else:
        process.send_signal(getattr(signal, blow))
        time.sleep(1)
        go.touch()  # a thread that hears no signals is let go
        yield


@contextmanager
def full(run: Path) -> Iterator[None]:
    """No byte is free where the run lies."""
    ballast = run.parent / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            for _ in itertools.count():
                file.write(PIECE)
        except OSError:
            pass
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own at `folder`; the test is skipped where this user may mount none."""
    folder.mkdir()
    mount = shutil.which("mount") or "false"
    done = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def records(run: Path) -> dict[int, Record]:
    """Stage -> the record of its last checkpoint, wherever the host puts it."""
    found: dict[int, Record] = {}
    for path in run.rglob("apt.json"):
        if not any(".unfinished-" in part or part.endswith(".tmp") for part in path.parts):
            record = read_record(path.parent)
            if record.stage not in found or found[record.stage].steps < record.steps:
                found[record.stage] = record
    return found


def differences(one: Record, two: Record) -> list[str]:
    """What two ends of a stage do not have in common."""
    sides = [
        {
            "weights": record.weights, "VLM": record.vlm, "its start": record.vlm_start, "steps": record.steps,
            "losses": record.curve.points("loss")[1].tolist(), "prior": (record.stage1 or {}).get("weights"),
        }
        for record in (one, two)
    ]  # fmt: skip
    return [f"{name}: {sides[0][name]} | {sides[1][name]}" for name in sides[0] if sides[0][name] != sides[1][name]]


SENTENCE = "What was whole is still whole: make room"
STATUS = {"SIGKILL": 137, "SIGTERM": 143, "SIGINT": 130, FULL: 1}  # as a shell sees them


def check(host: Host, place: Path, blow: str, left_alone: Mapping[int, Record], disk: int = 400) -> str:
    """All moments of one blow; a line for the table."""
    if blow == FULL:
        with small_disk(place / "disk", disk) as folder:
            return _check(host, folder / "run", blow, left_alone, place)
    return _check(host, place / blow, blow, left_alone, place)


def _check(host: Host, run: Path, blow: str, left_alone: Mapping[int, Record], notes: Path) -> str:
    began = time.monotonic()
    found, ends = struck(host, run, blow, notes)
    faults = [f"{one.moment}: left {one.left}" for one in found if one.left]
    faults += [f"{one.moment}: exit {one.status}\n{one.log[-3000:]}" for one in found if one.status != STATUS[blow]]
    if blow == FULL:
        faults += [f"{one.moment}: no sentence\n{one.log[-3000:]}" for one in found if SENTENCE not in one.log]
    faults += [f"Stage {s} {what}" for s in left_alone for what in differences(left_alone[s], ends[s])]
    assert not faults, "\n".join(faults)
    return f"{blow}: {len(found)} of {len(MOMENTS)} moments, the same weights; {time.monotonic() - began:.0f} s"


@pytest.fixture(scope="module")
def left_alone(host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Record]:
    """The run of a host's own `host` fixture that nobody strikes."""
    return alone(host, tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.parametrize("blow", BLOWS)
def test_a_run_struck_at_every_moment_ends_as_one_left_alone(host, left_alone, tmp_path: Path, blow: str) -> None:
    """A host's test file imports this and `left_alone`, and says what `host` is."""
    print(check(host, tmp_path, blow, left_alone))
