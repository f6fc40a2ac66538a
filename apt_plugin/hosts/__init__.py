"""The hosts this plugin knows: which versions were tested, and where their adapters are.

What the plugin asks of a host is written down in `hosts.adapter`. This is the only place that imports one by name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from apt_plugin.errors import AptError, choose

if TYPE_CHECKING:
    from apt_plugin.hosts.adapter import Adapter


@dataclass(frozen=True)
class Host:
    """One host framework."""

    name: str
    module: str  # its import name
    distribution: str
    tested: str  # version range that the suite ran on
    room: str  # class of `hosts.<name>.adapter`

    @property
    def adapter(self) -> Adapter:
        """Ours; importing it imports nothing of the host."""
        return getattr(importlib.import_module(f"{__name__}.{self.name}.adapter"), self.room)()

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
        if version == "unknown" or version not in SpecifierSet(self.tested, prereleases=True):
            return False, f"version {version} is outside the tested range {self.tested}"
        if (why := self.adapter.unusable()) is not None:
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

    def open(self) -> Adapter:
        """The adapter of a host that is usable here.

        Raises:
            AptError: see `require`.
        """
        self.require()
        return self.adapter


HOSTS = {
    host.name: host
    for host in (
        Host("lerobot", "lerobot", "lerobot", ">=0.6.1,<0.6.2", "LerobotAdapter"),
        Host("openpi", "openpi", "openpi", ">=0.1.0,<0.2", "OpenpiAdapter"),
        Host("gr00t", "gr00t", "gr00t", ">=0.1.0,<0.2", "GrootAdapter"),  # every GR00T calls itself 0.1.0: see unusable
    )
}


def adapter_for(command: Sequence[str]) -> Adapter:
    """The adapter of the host whose program a command line names.

    Raises:
        AptError: no host recognises it, or the one that does is not usable here.
    """
    if not (owner := owner_of(command)):
        raise AptError(
            f"No known host in {' '.join(command)!r}. Write the host's own command behind `run`, e.g. apt-plugin run "
            "lerobot-train --policy.type=pi05 ... --recipe apt."
        )
    return HOSTS[owner].open()


def owner_of(command: Sequence[str]) -> str:
    """The host whose program a command line names; "" where no host recognises it."""
    # The program stands before its flags, whose values may name anything (--dataset-path ./lerobot-data).
    tokens = (token for token in command if not Path(token).name.startswith("python"))
    found = (host.name for token in tokens for host in HOSTS.values() if host.adapter.recognises_program(token))
    return next(found, "")


def host_of(policy: str) -> str:
    """Which host wrote a checkpoint folder, by its files.

    Raises:
        AptError: no folder (name --host), or one that no host writes.
    """
    folder = Path(policy)
    if not folder.is_dir():
        raise AptError(f"{policy} is no folder here, so its host cannot be told: add --host {' | '.join(HOSTS)}.")
    for host in HOSTS.values():
        if host.adapter.recognises(folder):
            return host.name
    raise AptError(
        f"{folder} is no checkpoint of {', '.join(HOSTS)}: no params/, no assets/, no config.json with a type. In "
        "lerobot, name .../checkpoints/last/pretrained_model; in openpi the step folder."
    )


def named(host: str) -> Adapter:
    """The adapter of a host by its name, or by what a record says of it ("lerobot 0.6.1").

    Raises:
        AptError: an unknown host, or one that is not usable here.
    """
    name = host.partition(" ")[0]
    choose("host", name, HOSTS)
    return HOSTS[name].open()
