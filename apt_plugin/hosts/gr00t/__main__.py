"""One process of a GR00T program with our model registered: `python -m apt_plugin.hosts.gr00t <module> ...`.

Started by `apt-plugin run`, under torchrun too. The host's own script runs unchanged.
"""

from __future__ import annotations

import contextlib
import runpy
import sys

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.names import BUILDERS, TRAIN
from apt_plugin.launch import split


def main(argv: list[str]) -> None:
    from apt_plugin.hosts.gr00t import register

    request = split(argv)
    module, *flags = request.command
    building = BUILDERS.get(module, "")
    module = TRAIN if building else module
    register()
    if module == TRAIN and request.recipe is not None:
        if "--help" in flags or "-h" in flags:
            from apt_plugin.hosts.gr00t.flags import show_recipe_in_help

            show_recipe_in_help()
        else:
            from apt_plugin.hosts.gr00t import training

            if request.stage not in ("1", "2"):
                raise AptError("One process trains one stage: write --apt.stage 1 or 2, or use `apt-plugin run`.")
            training.install(request.recipe, int(request.stage), building)
    sys.argv = [module, *flags]
    if not building:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from apt_plugin.hosts.gr00t import distributed
    from apt_plugin.hosts.gr00t.cache_build import Finished

    with contextlib.suppress(Finished):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    distributed.end_group()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AptError as error:
        sys.exit(f"apt-plugin: {error}")
