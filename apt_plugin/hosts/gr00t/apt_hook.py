"""The recipe through the host's own flag, where only a flag can be changed: `--modality-config-path <this file>`.

The host imports the file it names before it starts. Settings come from the environment:

    APT_FLAGS             e.g. "--apt.stage 1 --apt.fusion.kind host" (stage 1 or 2 must be named; flags of the recipe
                          only, the host's stand in its own command)
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
from apt_plugin.hosts import allow
from apt_plugin.hosts.gr00t import preflight, register, training
from apt_plugin.hosts.gr00t.names import TRAIN
from apt_plugin.launch import check_one_process, split

try:
    request = split(["--recipe", "apt", *shlex.split(os.environ.get("APT_FLAGS", ""))], "gr00t")
    check_one_process(request, stage_flags=False)
except AptError as error:
    sys.exit(f"apt-plugin: APT_FLAGS: {error}")
assert request.recipe is not None
allow(request.untested)
if own := os.environ.get("APT_MODALITY_CONFIG"):
    sys.path.append(str(Path(own).resolve().parent))
    importlib.import_module(Path(own).stem)
register()
try:
    if Path(sys.argv[0]).stem == TRAIN.rpartition(".")[2]:
        preflight.native(TRAIN, request.stage, request.recipe, sys.argv[1:])
    training.install(request.recipe, int(request.stage))
except AptError as error:
    sys.exit(f"apt-plugin: APT_FLAGS: {error}")
