"""APT inside openpi: derived configs `<name>_apt1` and `<name>_apt2` in the host's own registry.

Importing this changes nothing in the host; `derive` makes a config, `register` adds it, and the launcher's processes
alone replace functions of the host's scripts (each logged, see training.py).
"""

from __future__ import annotations

import importlib
import os

from apt_plugin.hosts.openpi.names import PRELOAD


def preload() -> None:
    """Import the modules named in APT_PRELOAD: TrainConfigs of one's own, kept outside openpi's config.py."""
    for name in filter(None, os.environ.get(PRELOAD, "").split(",")):
        importlib.import_module(name)
