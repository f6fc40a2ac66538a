"""The main module of the processes that an evaluator spawns (Isaac GR00T's `--n-envs 2` and more): told, too.

A spawned process imports the script anew, without what stood in front of it.
"""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable, Mapping
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from apt_plugin.run.replace import Replacements

SETTINGS = "APT_LIBERO_WORKER"


def spread(script: str, named: Mapping[str, str], reached: Path | None, placed: Replacements) -> None:
    """From now on each process that this one spawns begins with this module and then the script."""
    told = {"script": os.path.abspath(script), "named": dict(named), "reached": str(reached) if reached else None}
    os.environ[SETTINGS] = json.dumps(told)
    placed.wrap(spawn, "get_preparation_data", _beginning_here)


def _beginning_here(made: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    def data(name: str) -> dict[str, Any]:
        own = {key: value for key, value in made(name).items() if not key.startswith("init_main_from")}
        return {**own, "init_main_from_name": "apt_plugin.libero.worker"}

    return data


def _begin() -> dict[str, Any]:
    """The names of the script, which the process is asked for by."""
    from apt_plugin.libero.__main__ import install

    told = json.loads(os.environ[SETTINGS])
    install(told["script"], told["named"], Path(told["reached"]) if told["reached"] else None)
    return runpy.run_path(told["script"], run_name="__mp_main__")


if __name__ == "__mp_main__":
    globals().update(_begin())
