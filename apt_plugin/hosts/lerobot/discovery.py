"""Whether lerobot's own commands find our policies without the launcher."""

from __future__ import annotations

import importlib.metadata

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
    version = companion()
    if version:
        return f"lerobot finds pi05_apt and pi0_apt by itself ({COMPANION} {version} is installed)."
    return f"lerobot does not find pi05_apt by itself: pip install {COMPANION}, or use apt-plugin run."
