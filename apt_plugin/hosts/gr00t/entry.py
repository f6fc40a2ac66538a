"""Called by a patched host (patches/gr00t/1-recipe-entry-points.patch) when it imports its models.

Training and serving both import `gr00t.model`: our model type becomes known, so that a checkpoint is served without the
launcher; and a fine-tune command that names the recipe follows it. A command that does not is left alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from apt_plugin.errors import AptError
from apt_plugin.hosts import allow


def load(argv: list[str]) -> None:
    """
    Args:
        argv: the host's command line; our flags are taken out of it.
    """
    from apt_plugin.hosts.gr00t import register

    register()
    named = any(token.partition("=")[0] == "--recipe" for token in argv[1:])
    if not named or argv[0] == "-c" or "apt_plugin" in Path(argv[0]).parts:  # our own launcher has split them off
        return
    try:
        _take_over(argv)
    except AptError as error:
        sys.exit(f"apt-plugin: {error}")


def _take_over(argv: list[str]) -> None:
    from apt_plugin.hosts import HOSTS
    from apt_plugin.hosts.gr00t import acting, adapter
    from apt_plugin.hosts.gr00t.programs import Settings, find_program, switched
    from apt_plugin.launch import check_one_process, split
    from apt_plugin.recipe_help import ours
    from apt_plugin.run import lock
    from apt_plugin.run.staged import carry_out

    request = split(argv, "gr00t")
    allow(request.untested)
    program = find_program(request.command)
    argv[1:] = request.command[1:]
    if "--help" in argv or "-h" in argv:
        print(ours(), "\nFlags of the host:\n", flush=True)
    elif program is None or not program.trains:
        argv[1:], chosen = adapter.acting(argv[1:], request)
        if chosen and adapter.of_the_host(argv[1:]):  # the host is being imported: too early to replace parts of it
            raise AptError(
                f"--apt.{next(iter(chosen))} on a stock checkpoint needs the launcher: write apt-plugin run in front."
            )
        acting.install(chosen)
    elif request.stage == "both":
        sys.exit(carry_out(HOSTS["gr00t"].open(), request))
    else:
        from apt_plugin.hosts.gr00t import preflight, training

        check_one_process(request, stage_flags=True, host_flags=True)
        argv[1:] = switched(argv[1:]).with_(request.stage_flags[request.stage]).tokens()
        assert request.recipe is not None
        lock.hold(Settings(program.module, argv[1:]).output())
        preflight.native(program.module, request.stage, request.recipe, argv[1:])
        training.install(request.recipe, int(request.stage))
