"""The recipe through the host's own flag, where only a flag can be changed: `--modality-config-path <this file>`.

The host imports the file it names before it starts. Settings come from the environment:

    APT_FLAGS             e.g. "--apt.stage 1 --apt.fusion.kind host" (stage 1 or 2 must be named)
    APT_MODALITY_CONFIG   your own modality file, which this one takes the place of; loaded the host's way

The path: python -c "import importlib.util as u; print(u.find_spec('apt_plugin.hosts.gr00t.apt_hook').origin)"
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from pathlib import Path

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import register, training
from apt_plugin.launch import split

request = split(["--recipe", "apt", *shlex.split(os.environ.get("APT_FLAGS", ""))])
if request.stage not in ("1", "2") or request.recipe is None:
    raise AptError("The hook trains one stage per command: write APT_FLAGS='--apt.stage 1' or '--apt.stage 2'.")
if own := os.environ.get("APT_MODALITY_CONFIG"):
    sys.path.append(str(Path(own).resolve().parent))
    importlib.import_module(Path(own).stem)
register()
training.install(request.recipe, int(request.stage))
