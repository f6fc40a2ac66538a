"""python -m apt_plugin.libero [--as NAME=SUITE] SCRIPT ...: an evaluator's own script, told what is scored.

    python -m apt_plugin.libero examples/libero/main.py --args.task-suite-name=libero_goal
    python -m apt_plugin.libero --as libero_goal=libero_goal_task examples/libero/main.py \\
        --args.task-suite-name=libero_goal

The script asks LIBERO's registry for suites, and gets each with the sentence of the goal that is scored. `--as` gives
it another suite under a name that it knows: openpi's client refuses names that it has no step limit for.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.libero import suites
from apt_plugin.listen import scored
from apt_plugin.run.replace import Replacements

USAGE = "Usage: python -m apt_plugin.libero [--as NAME=SUITE] SCRIPT [its arguments]"


def install(named: Mapping[str, str]) -> Replacements:
    """Every suite that LIBERO hands out, told by what is scored; `named`: name -> the suite that stands under it.

    Raises:
        AptError: no LIBERO here, or no such suite.
    """
    own = dict(scored.registry())
    for suite in named.values():
        suites.of(suite, own)  # refuses now rather than within the script
    told = {name: _maker(named.get(name, name), own) for name in {*own, *named}}
    from libero.libero import benchmark  # type: ignore[import-not-found]

    placed = Replacements()
    placed.set(benchmark, "get_benchmark_dict", lambda help=False: told)
    placed.set(benchmark, "get_benchmark", lambda name: told[name.lower()])
    return placed


def _maker(suite: str, own: Mapping[str, Any]) -> Callable[..., suites.Suite]:
    """What stands for a suite's class; an evaluator may give the order of its tasks, which stays LIBERO's first."""
    return lambda *_: suites.of(suite, own)


def main(argv: Sequence[str]) -> None:
    """
    Raises:
        AptError: no script, no LIBERO, or no such suite.
    """
    rest, named = list(argv), {}
    while rest[:1] == ["--as"]:
        name, _, suite = (rest[1] if len(rest) > 1 else "").partition("=")
        if not suite:
            raise AptError(f"--as takes NAME=SUITE, such as --as libero_goal=libero_goal_task. {USAGE}")
        named[name], rest = suite, rest[2:]
    if not rest or not Path(rest[0]).is_file():
        raise AptError(f"There is no script {rest[0] if rest else ''!r}. {USAGE}")
    install(named)
    sys.argv = rest
    sys.path.insert(0, str(Path(rest[0]).resolve().parent))
    runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AptError as error:
        sys.exit(f"apt-plugin: {error}")
