"""Entry points that a patched openpi calls (patches/openpi): the recipe without the launcher in front.

Group `openpi.recipes`: called with sys.argv where the host parses its command line. Group `openpi.checkpoints`:
called with (config, checkpoint folder) before a policy is built. Both do nothing for what is not ours.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

RECIPE = "--recipe"


def recipe(argv: list[str]) -> None:
    """Run the stages and leave, when the command line names the recipe."""
    if not any(token == RECIPE or token.startswith((f"{RECIPE}=", "--apt.")) for token in argv[1:]):
        return
    from apt_plugin.arguments import in_words
    from apt_plugin.hosts import HOSTS, allow
    from apt_plugin.launch import split
    from apt_plugin.run.staged import carry_out

    with in_words():
        request = split(argv, "openpi")
        allow(request.untested)
        sys.exit(carry_out(HOSTS["openpi"].open(), request))


def checkpoint(config: Any, folder: Any) -> Any:
    """The config that an APT checkpoint was trained with; any other checkpoint keeps `config`."""
    record = Path(os.fspath(folder)) / "assets" / "apt.json"
    if not record.is_file() or hasattr(config.model, "apt_stage"):
        return config
    from apt_plugin.hosts.openpi import serving
    from apt_plugin.hosts.openpi.trained import as_trained
    from apt_plugin.stages import read_record

    if "openpi.serving.websocket_policy_server" in sys.modules:  # a program that serves
        serving.keep_connections()
    return as_trained(config, record.parent.parent, read_record(record.parent))
