"""Imported first by every module here: without the host the module is skipped, visibly and with the reason."""

import pytest

from apt_plugin.hosts import HOSTS

if not (standing := HOSTS["gr00t"].standing()).usable:
    pytest.skip(f"Isaac GR00T: {standing.reason}", allow_module_level=True)
