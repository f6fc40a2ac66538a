"""Whether lerobot's own commands find our policies without the launcher."""

from __future__ import annotations

import importlib.metadata

from apt_plugin.hosts.lerobot.families import POLICIES

COMPANION = "lerobot_policy_apt"


def companion() -> str | None:
    """Version of the companion distribution, None when it is absent.

    The metadata name counts as written: lerobot looks for `lerobot_policy_` with underscores.
    """
    for distribution in importlib.metadata.distributions():
        if distribution.metadata.get("Name") == COMPANION:
            return distribution.version
    return None


def sentence() -> str:
    version, names = companion(), ", ".join(POLICIES.values())
    if version:
        return f"lerobot finds {names} by itself ({COMPANION} {version} is installed)."
    return f"lerobot does not find {names} by itself: pip install {COMPANION}, or use apt-plugin run."
