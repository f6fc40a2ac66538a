"""One process of a lerobot program with our policies registered: `python -m apt_plugin.hosts.lerobot <program> ...`.

Started by `apt-plugin run`, under accelerate or torchrun too. The host's own entry point runs unchanged.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import runpy
import sys
from typing import Any

from apt_plugin.arguments import in_words
from apt_plugin.errors import AptError, did_you_mean
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.lerobot.acting import GUIDANCE
from apt_plugin.hosts.lerobot.programs import CHECK, TRAIN
from apt_plugin.run.warmup import FROZEN_SHARE, look

# Programs of ours that go through the host's training script, and what they do in place of training.
BUILDERS = {"apt-cache-build": "build", "apt-cache-verify": "verify"}


def main(argv: list[str]) -> None:
    from apt_plugin.hosts.lerobot import register, training, written

    program, *flags = argv
    if program in (TRAIN, *BUILDERS):
        HOSTS["lerobot"].require_training()
    register()
    if program == CHECK:
        from apt_plugin.hosts.lerobot import preflight

        preflight.main()
        return
    if scale := os.environ.get(GUIDANCE):
        from apt_plugin.hosts.lerobot import guidance

        guidance.install(float(scale))
    sys.argv = [program, *flags]
    if program in (TRAIN, *BUILDERS):
        written.check_command(flags)
    if program in BUILDERS:
        from apt_plugin.hosts.lerobot import cache_build

        sys.argv[0] = TRAIN
        cache_build.main(BUILDERS[program], entry(TRAIN))
        return
    if program == TRAIN and (share := os.environ.get(FROZEN_SHARE)):
        from apt_plugin.hosts.lerobot import preflight, warmup

        look(lambda: preflight.here(""), float(share))
        warmup.install(float(share))
    elif program == TRAIN:
        training.install()
    if program.startswith("lerobot."):
        if program.endswith("policy_server"):
            training.allow_in_policy_server()
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        return
    entry(program)()


def entry(program: str) -> Any:
    """The function behind one of lerobot's commands."""
    scripts = {
        e.name: e for e in importlib.metadata.distribution("lerobot").entry_points if e.group == "console_scripts"
    }
    if program not in scripts:
        raise AptError(f"lerobot has no program {program!r}.{did_you_mean(program, scripts)}")
    return scripts[program].load()


if __name__ == "__main__":
    with in_words():
        main(sys.argv[1:])
