"""The hosts this plugin knows: which versions were tested, and where their adapters are.

An adapter says only where features come out, where fusion goes in, where language enters and how to save.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass

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
        Host("openpi", "openpi", "openpi", "", None, "its adapter is not written yet"),
        Host("gr00t", "gr00t", "gr00t", "", None, "its adapter is not written yet"),
    )
}
