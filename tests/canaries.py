"""A host whose behaviour was changed behind unchanged signatures: each canary must fall, and say what it found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from apt_plugin import canaries
from apt_plugin.hosts import HOSTS
from apt_plugin.probes import Package, failed
from tests import doctored

Change = tuple[str, str, str]  # file, pattern, replacement


def fall(host: str, to: Path, changes: Mapping[str, Change], silent: Sequence[str] = ()) -> dict[str, str]:
    """Canary -> why, on a copy with all of the changes; no probe of files sees any but those `silent` names not.

    Args:
        silent: canaries whose change the probes see as well.
    """
    package = Package.find(HOSTS[host].module)
    assert package is not None
    first, *others = changes.values()
    copy = doctored.copy(package, to, *first)
    for change in others:
        doctored.change(copy.root, *change)
    assert bool(failed(copy, HOSTS[host].adapter.probes)) == bool(silent)
    path = os.pathsep.join([str(copy.root.parent), os.environ.get("PYTHONPATH", "")])
    told = canaries.tried(canaries.python("apt_plugin.hosts", host), {"PYTHONPATH": path, "APT_UNTESTED": "1"})
    return dict(line.split(": ", 1) for line in told)
