"""One process of a GR00T program with our model registered: `python -m apt_plugin.hosts.gr00t <module> ...`.

Started by `apt-plugin run`, under torchrun too. The host's own script runs unchanged.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys

from apt_plugin.arguments import in_words
from apt_plugin.hosts import allow
from apt_plugin.hosts.gr00t.names import BUILDERS, CHECK
from apt_plugin.hosts.gr00t.programs import TRAINING
from apt_plugin.launch import check_one_process, for_acting, split
from apt_plugin.run.warmup import FROZEN_SHARE, look


def main(argv: list[str]) -> None:
    if argv[0] == CHECK:
        from apt_plugin.hosts.gr00t import preflight

        preflight.main()
        return
    from apt_plugin.hosts.gr00t import acting, register
    from apt_plugin.hosts.gr00t.adapter import of_the_host

    request = split(argv, "gr00t")
    allow(request.untested)
    building = BUILDERS.get(request.command[0], "")
    module, *flags = request.command[1:] if building else request.command
    register()
    if module not in TRAINING:
        acting.check_embodiment(flags)
    if {"-h", "--help"} & set(flags):
        pass  # the launcher has shown ours
    elif module in TRAINING and (share := os.environ.get(FROZEN_SHARE)):
        from apt_plugin.hosts.gr00t import preflight, warmup

        warmup.install(float(share))
        look(lambda: preflight.own(module, flags), float(share))
    elif request.recipe is not None and module in TRAINING:
        from apt_plugin.hosts.gr00t import training

        check_one_process(request, stage_flags=False, host_flags=True)
        training.install(request.recipe, int(request.stage), building)
    elif request.recipe is not None and (chosen := for_acting(request)):
        if of_the_host(flags):
            from apt_plugin.hosts.gr00t import guidance

            guidance.install(chosen["guidance_scale"])
        else:
            acting.install(chosen)
    sys.argv = [module, *flags]
    if not building:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from apt_plugin.backends import torch_ranks
    from apt_plugin.hosts.gr00t.cache_build import Finished

    with contextlib.suppress(Finished):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    torch_ranks.end_group()


if __name__ == "__main__":
    with in_words():
        main(sys.argv[1:])
