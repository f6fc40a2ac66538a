"""The hosts this plugin knows: which versions were tested, and where their adapters are.

An adapter says only where features come out, where fusion goes in, where language enters and how to save. It is a
package with `names.POLICIES` (host model -> ours), `launch.run(request)` and `prove.open_subject(folder, device)`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from apt_plugin.errors import AptError


@dataclass(frozen=True)
class Host:
    """One host framework."""

    name: str
    module: str  # its import name
    distribution: str
    tested: str  # version range that the suite ran on
    adapter: str | None  # import path of our adapter, None while there is none
    why: str = ""  # why there is none
    check: str = ""  # a module whose `reason()` says why this installation cannot be used, or None

    def version(self) -> str | None:
        """Installed version, or None when it does not import here."""
        if importlib.util.find_spec(self.module) is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def supported(self) -> tuple[bool, str]:
        """(usable, the reason in words)."""
        version = self.version()
        if version is None:
            return False, "not installed"
        if self.adapter is None:
            return False, self.why
        if version == "unknown" or version not in SpecifierSet(self.tested, prereleases=True):
            return False, f"version {version} is outside the tested range {self.tested}"
        if self.check and (why := importlib.import_module(self.check).reason()) is not None:
            return False, why.rstrip(".")
        return True, f"version {version}, tested range {self.tested}"

    def require(self) -> str:
        """The installed version, when it is in the tested range.

        Raises:
            AptError: not installed, or a version nobody tested; hosts move functions between releases, and a
                leak would go unseen.
        """
        usable, reason = self.supported()
        if not usable:
            raise AptError(
                f"{self.name}: {reason}. Install {self.distribution}{self.tested}, or run `apt-plugin doctor`."
            )
        return self.version() or ""


HOSTS = {
    host.name: host
    for host in (
        Host("lerobot", "lerobot", "lerobot", ">=0.6.1,<0.6.2", "apt_plugin.hosts.lerobot"),
        Host("openpi", "openpi", "openpi", ">=0.1.0,<0.2", "apt_plugin.hosts.openpi"),
        # Every GR00T calls itself 0.1.0: the adapter's own check tells N1.7 from N1.6 and N1.5.
        Host(
            "gr00t", "gr00t", "gr00t", ">=0.1.0,<0.2", "apt_plugin.hosts.gr00t", check="apt_plugin.hosts.gr00t.versions"
        ),
    )
}


def adapter_for(command: Sequence[str]) -> Any:
    """The launch module of the host whose program a command line names.

    Raises:
        AptError: no host recognises it, or the one that does is not usable here.
    """
    owner = owner_of(command)
    if not owner:
        raise AptError(
            f"No known host in {' '.join(command)!r}. Write the host's own command behind `run`, e.g. apt-plugin run "
            "lerobot-train --policy.type=pi05 ... --recipe apt."
        )
    host = HOSTS[owner]
    host.require()
    return importlib.import_module(f"{host.adapter}.launch")


def owner_of(command: Sequence[str]) -> str:
    """The host whose program a command line names; "" where no host recognises it."""
    # The program stands before its flags, whose values may name anything (--dataset-path ./lerobot-data).
    tokens = [token for token in command if not Path(token).name.startswith("python")]
    found = (name for token in tokens for name, marks in _PROGRAMS.items() if any(mark in token for mark in marks))
    return next(found, "")


# What gives a host's command away.
_PROGRAMS = {
    "lerobot": ("lerobot-", "lerobot."),
    "openpi": ("scripts/train.py", "scripts/train_pytorch.py", "scripts/serve_policy.py", "compute_norm_stats.py"),
    "gr00t": ("gr00t/", "gr00t."),
}
