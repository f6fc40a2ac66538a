"""A process that has lerobot imported and runs one command after another, each in a fork of its own.

Importing lerobot takes ten seconds, and a documented command with both stages starts six processes. The entry
points are the real ones, each begins with the modules that are loaded and nothing else done; `apt-plugin run` starts
its children this way too. A line of JSON on stdin asks ({"argv", "cwd", "log"}), a line on stdout answers ({"pid"},
then {"status"} unless it runs in the background).
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path


def main() -> None:
    import lerobot.scripts.lerobot_edit_dataset
    import lerobot.scripts.lerobot_train  # noqa: F401
    import torch
    from lerobot.policies.pi0 import modeling_pi0  # noqa: F401
    from lerobot.policies.pi05 import modeling_pi05  # noqa: F401

    import apt_plugin.cli  # noqa: F401
    from apt_plugin.run import child
    from tests.hosts.lerobot.shrunk import shrink

    torch.set_num_threads(1)
    shrink()
    child.call = call
    for line in sys.stdin:
        asked = json.loads(line)
        pid = fork(asked["argv"], asked["cwd"], Path(asked["log"]))
        print(json.dumps({"pid": pid}), flush=True)
        if not asked.get("background"):
            print(json.dumps({"status": wait(pid)}), flush=True)


def fork(argv: Sequence[str], cwd: str, log: Path | None = None, env: Mapping[str, str] | None = None) -> int:
    """Start what a shell would start; its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.chdir(cwd)
        if log is not None:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for to, handle in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, out)):
                os.dup2(handle, to)
        os.environ.update(env or {})
        status = enter(list(argv))
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def enter(argv: list[str]) -> int:
    name = Path(argv[0]).name
    if name.startswith("python") and argv[1] == "-m":
        sys.argv = argv[2:]
        runpy.run_module(argv[2], run_name="__main__", alter_sys=True)
        return 0
    sys.argv = argv
    if name == "apt-plugin" or name.startswith("lerobot-"):
        program = "apt_plugin.cli" if name == "apt-plugin" else f"lerobot.scripts.{name.replace('-', '_')}"
        importlib.import_module(program).main()
        return 0
    return subprocess.run(argv).returncode


def call(command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """In place of `apt_plugin.run.child.call`, which starts Python anew."""
    return wait(fork(command, os.getcwd(), env=env))


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
