"""python -m apt_plugin.libero [--as NAME=SUITE] [--reached FILE] SCRIPT ...: an evaluator is told what is scored.

    python -m apt_plugin.libero examples/libero/main.py --args.task-suite-name=libero_goal
    python -m apt_plugin.libero --as libero_goal=libero_goal_task examples/libero/main.py \\
        --args.task-suite-name=libero_goal

The script asks LIBERO's registry for suites, and gets each with the sentence of the goal that is scored. `--as` gives
it another suite under a name that it knows: openpi's client refuses names that it has no step limit for. `--reached`
adds a line of JSON to a file for each episode: its task, whether it succeeded, and which object the arm went for.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.libero import suites, watch, worker
from apt_plugin.listen import scored
from apt_plugin.run.replace import Replacements

USAGE = "Usage: python -m apt_plugin.libero [--as NAME=SUITE] [--reached FILE] SCRIPT [its arguments]"


def install(script: str, named: Mapping[str, str], reached: Path | None = None) -> Replacements:
    """Every suite that LIBERO hands out, told by what is scored, in this process and in those that it starts.

    Args:
        script: the evaluator's. named: name -> the suite that stands under it. reached: where each episode adds a
        line, see `watch`.

    Raises:
        AptError: no LIBERO here, or no such suite.
    """
    own, handed = dict(scored.registry()), dict[str, watch.Asked]()
    for suite in named.values():
        suites.of(suite, own)  # refuses now rather than within the script
    told = {name: _maker(named.get(name, name), own, handed if reached else None) for name in {*own, *named}}
    from libero.libero import benchmark  # type: ignore[import-not-found]

    placed = Replacements()
    placed.set(benchmark, "get_benchmark_dict", lambda help=False: told)
    placed.set(benchmark, "get_benchmark", lambda name: told[name.lower()])
    if reached is not None:
        from libero.libero.envs.env_wrapper import ControlEnv  # type: ignore[import-not-found]

        placed.wrap(ControlEnv, "__init__", lambda made: _watching(made, handed, reached))
    worker.spread(script, named, reached, placed)
    return placed


def _maker(suite: str, own: Mapping[str, Any], handed: dict[str, watch.Asked] | None) -> Callable[..., suites.Suite]:
    """What stands for a suite's class; an evaluator may give the order of its tasks, which stays LIBERO's first.

    `handed`: gets what each file of the suite asks.
    """

    def make(*_: Any) -> suites.Suite:
        made = suites.of(suite, own)
        if handed is not None:
            paths = (os.path.realpath(made.get_task_bddl_file_path(index)) for index in range(made.n_tasks))
            handed.update({path: watch.asked(made, index) for index, path in enumerate(paths)})
        return made

    return make


def _watching(made: Callable[..., None], handed: Mapping[str, watch.Asked], path: Path) -> Callable[..., None]:
    """LIBERO's environment, watched where its file is one that was handed out."""

    def init(self: Any, bddl_file_name: Any, *more: Any, **named: Any) -> None:
        made(self, bddl_file_name, *more, **named)
        asked = handed.get(os.path.realpath(bddl_file_name))
        if asked is not None:
            watch.Watch(self, asked, path)

    return init


def main(argv: Sequence[str]) -> None:
    """
    Raises:
        AptError: no script, no LIBERO, or no such suite.
    """
    rest, named, reached = list(argv), {}, None
    while rest[:1] in (["--as"], ["--reached"]):
        flag, given, rest = rest[0], rest[1] if len(rest) > 1 else "", rest[2:]
        name, _, suite = given.partition("=")
        if flag == "--as" and not suite:
            raise AptError(f"--as takes NAME=SUITE, such as --as libero_goal=libero_goal_task. {USAGE}")
        if flag == "--reached":
            reached = watch.checked(given, flag)
        else:
            named[name] = suite
    if not rest or not Path(rest[0]).is_file():
        raise AptError(f"There is no script {rest[0] if rest else ''!r}. {USAGE}")
    install(rest[0], named, reached)
    sys.argv = rest
    sys.path.insert(0, str(Path(rest[0]).resolve().parent))
    runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AptError as error:
        sys.exit(f"apt-plugin: {error}")
