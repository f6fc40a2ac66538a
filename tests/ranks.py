"""The ranks of one distributed program, without paying the host's import in each of them.

What torchrun and accelerate do is set a few variables and start n processes; each would import torch and the host anew,
ten seconds of it. Here a fork server imports them once. The launchers themselves have tests of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.processes import HANG

ROOT = Path(__file__).resolve().parents[1]
SERVER = multiprocessing.get_context("forkserver")
PRELOAD = ["lerobot.scripts.lerobot_train", "apt_plugin.hosts.lerobot.training", "tests.hosts.lerobot.groot_worker"]


def _rank(log: str, rank: int, world: int, port: int, program: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    try:
        program(*arguments)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # without waiting in a collective for ranks that are gone


def run(world: int, logs: Path, program: Callable[..., None], *arguments: Any, timeout: float = HANG) -> list[str]:
    """Run `program(*arguments)` in `world` processes; what each printed.

    Args:
        program: a function of a module; its ranks find each other by the variables that torchrun sets.
        logs: folder for what they print.
    """
    logs.mkdir(parents=True, exist_ok=True)
    SERVER.set_forkserver_preload(PRELOAD)
    port = free_port()
    files = [logs / f"rank{rank}.log" for rank in range(world)]
    started = [
        SERVER.Process(target=_rank, args=(str(file), rank, world, port, program, arguments))
        for rank, file in enumerate(files)
    ]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # the server imports what it preloads by it
            for process in started:
                process.start()
        for process in started:
            process.join(timeout)
    finally:  # behind a time-out of the test, too
        status = [process.exitcode for process in started]
        for process in started:
            if process.pid is not None:
                process.kill()
    said = [file.read_text() if file.exists() else "" for file in files]
    if any(status):
        raise AssertionError(
            f"ranks exited {status} (None: still running)\n" + "\n".join(text[-3000:] for text in said)
        )
    return said
