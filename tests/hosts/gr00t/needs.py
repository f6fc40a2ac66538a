"""Imported first by every module here: without the host the module is skipped, visibly and with the reason."""

import pytest

from apt_plugin.hosts.gr00t import versions

if (why := versions.reason()) is not None:
    pytest.skip(f"Isaac GR00T: {why}", allow_module_level=True)
