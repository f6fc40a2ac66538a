"""Read by every Python that has this folder on its path: holds the process that comes to a named moment of a run.

APT_TEST_MOMENT names the moment and APT_TEST_HELD a file. The first process that gets there writes its number into that
file and stands still until the file is removed, so that a test can strike just then (tests/hosts/blows.py). The moments
are functions of the core that every host calls: nothing here knows a host.
"""

from __future__ import annotations

import functools
import os
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEFORE, IN, BETWEEN, STAGE2, REPORT = MOMENTS = (
    "before the first checkpoint", "in its write", "between the stages", "in Stage 2", "in the report",
)  # fmt: skip
_states: list[Any] = []  # every StageState of this process
_written: list[int] = []  # stages of which this process wrote a record


def reached(moment: str) -> None:
    if os.environ.get("APT_TEST_MOMENT") != moment:
        return
    held = os.environ["APT_TEST_HELD"]
    try:
        handle = os.open(held, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:  # a process is held already, or was
        return
    os.write(handle, str(os.getpid()).encode())
    os.close(handle)
    while not os.path.exists(f"{held}.go"):
        time.sleep(0.02)


def before(owner: Any, name: str, look: Callable[..., None]) -> None:
    """Call `look` with the arguments of each call."""
    call = getattr(owner, name)

    @functools.wraps(call)
    def looked(*args: Any, **kwargs: Any) -> Any:
        look(*args, **kwargs)
        return call(*args, **kwargs)

    setattr(owner, name, looked)


def state(module: Any) -> None:
    before(module.StageState, "__init__", lambda self, *args, **kwargs: _states.append(self))


def curve(module: Any) -> None:
    """A step is behind it whose scalars are taken into the curve."""

    def step(self: Any, number: int, _values: Any) -> None:
        stage = next((one.stage for one in _states if one.curve is self), None)
        if stage == 1 and number and not _written:
            reached(BEFORE)
        if stage == 2 and _written:  # behind its first checkpoint
            reached(STAGE2)

    before(module.Curve, "add", step)


def stages(module: Any) -> None:
    def record(_folder: Any, record: Any) -> None:
        if record.stage == 1:
            reached(IN)  # the weights are there or being written, the record is not
        _written.append(record.stage)

    before(module, "write_record", record)


def staged(module: Any) -> None:
    """In the launcher, where nothing is proven."""
    before(module.Staged, "_begin", lambda _self, stage: reached(BETWEEN) if stage == "2" else None)


CHANGES: dict[str, Callable[[Any], None]] = {
    "apt_plugin.run.state": state,
    "apt_plugin.curve": curve,
    "apt_plugin.stages": stages,
    "apt_plugin.run.staged": staged,
    "apt_plugin.proofs": lambda module: before(module, "prove", lambda *a, **k: reached(BETWEEN)),
    "apt_plugin.report": lambda module: before(module, "write", lambda *a, **k: reached(REPORT)),
}


if __name__ == "sitecustomize":
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "changes.py"))["install"](CHANGES)
