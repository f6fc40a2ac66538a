"""The hosts this plugin knows: which versions were tested, and where their adapters are.

What the plugin asks of a host is written down in `hosts.adapter`. This is the only place that imports one by name.
"""

from __future__ import annotations

import enum
import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from apt_plugin import canaries
from apt_plugin.canaries import Canary
from apt_plugin.errors import AptError, choose
from apt_plugin.probes import Package, failed
from apt_plugin.stages import find_checkpoint, read_record

if TYPE_CHECKING:
    from apt_plugin.hosts.adapter import Adapter

logger = logging.getLogger(__name__)
UNTESTED = "APT_UNTESTED"  # "1" in the environment: train on an untested version; `--apt.untested` sets it
TRIED = "APT_TRIED"  # "lerobot 0.6.2": this process, or one that started it, has tried the canaries of that


class Level(enum.Enum):
    """What an installation may be used for."""

    TESTED = "yes"  # everything
    UNTESTED = "untested"  # what trains nothing; training when it is asked for by name
    REFUSED = "no"


@dataclass(frozen=True)
class Standing:
    """A level, the reason in words, and the probes that do not hold."""

    level: Level
    reason: str
    failed: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether anything at all."""
        return self.level is not Level.REFUSED


@dataclass(frozen=True)
class Host:
    """One host framework."""

    name: str
    module: str  # its import name
    distribution: str
    tested: str  # version range that the suite ran on
    room: str  # class of `hosts.<name>.adapter`
    get: str  # what to do where it is missing

    @property
    def adapter(self) -> Adapter:
        """Ours; importing it imports nothing of the host."""
        return getattr(importlib.import_module(f"{__name__}.{self.name}.adapter"), self.room)()

    def canaries(self) -> Sequence[Canary]:
        """What it must do; importing them imports the host."""
        return importlib.import_module(f"{__name__}.{self.name}.canaries").canaries()

    def tried(self) -> list[str]:
        """ "name: why" of each canary that does not hold here, found out in a process of its own (half a minute)."""
        return canaries.tried(canaries.python(__name__, self.name), {TRIED: f"{self.name} {self.version()}"})

    def version(self) -> str | None:
        """Installed version, or None when it does not import here."""
        if importlib.util.find_spec(self.module) is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def standing(self) -> Standing:
        """How far the installation that imports here can be relied on."""
        version, package = self.version(), Package.find(self.module)
        if version is None or package is None:
            return Standing(Level.REFUSED, "not installed")
        return _standing(self, version, package)

    def require(self) -> str:
        """The installed version, for what trains nothing; an untested one is named in one line of the log.

        Raises:
            AptError: not installed, or it lacks what the plugin relies on (a leak would go unseen); an untested one
                also where it does something else than that: it is tried once, on something tiny.
        """
        standing = self.standing()
        if self.version() is None:
            raise AptError(f"{self.name} is not installed here. {self.get}")
        if standing.level is Level.REFUSED:
            raise AptError(
                f"{self.name}: {standing.reason}. Install {self.distribution}{self.tested}, or run `apt-plugin doctor`."
            )
        if standing.level is Level.UNTESTED:
            _warn(f"APT: {self.name}: {standing.reason}.")
            _try(self)
        return self.version() or ""

    def require_training(self) -> str:
        """The installed version, for what trains, builds a cache or writes labels.

        Raises:
            AptError: see `require`; and an untested version that nobody allowed.
        """
        version, standing = self.require(), self.standing()
        if standing.level is Level.UNTESTED and os.environ.get(UNTESTED) != "1":
            raise AptError(
                f"{self.name}: {standing.reason}. What a test would find may change what is trained. Install "
                f"{self.distribution}{self.tested}, or train nevertheless: --apt.untested behind apt-plugin run, "
                f"{UNTESTED}=1 in the environment of the host's own command. Do not skip the proofs then."
            )
        return version

    def written(self) -> str:
        """As records name it: "lerobot 0.6.1", or "lerobot 0.6.2 untested"."""
        untested = " untested" if self.standing().level is Level.UNTESTED else ""
        return f"{self.name} {self.version()}{untested}"

    def open(self) -> Adapter:
        """The adapter of a host that is usable here.

        Raises:
            AptError: see `require`.
        """
        self.require()
        return self.adapter


@functools.lru_cache(maxsize=16)
def _standing(host: Host, version: str, package: Package) -> Standing:
    if broken := tuple(failed(package, host.adapter.probes)):
        return Standing(Level.REFUSED, f"version {version} lacks what the recipe relies on: {broken[0]}", broken)
    if version == "unknown" or version not in SpecifierSet(host.tested, prereleases=True):
        return Standing(
            Level.UNTESTED,
            f"version {version} is untested (tested: {host.tested}); all probes hold. Training takes --apt.untested",
        )
    if other := [file for file, known in host.adapter.content.items() if package.digest(file) not in known]:
        return Standing(
            Level.UNTESTED, f"{', '.join(other)} of this {version} is of no commit that was tested; all probes hold"
        )
    return Standing(Level.TESTED, f"version {version}, tested range {host.tested}")


def _try(host: Host) -> None:
    """Raises AptError: an untested host that does not do what the plugin relies on. Once for a run's processes."""
    this = f"{host.name} {host.version()}"
    if os.environ.get(TRIED) == this:
        return
    if broken := host.tried():
        raise AptError(
            f"{this} does something else than the recipe relies on: {broken[0]}. Install "
            f"{host.distribution}{host.tested}, or run `apt-plugin doctor`, which names all that was tried."
        )
    os.environ[TRIED] = this


@functools.lru_cache(maxsize=16)
def _warn(words: str) -> None:
    """Once a process: a policy's config asks at every opening."""
    logger.warning(words)


_LEROBOT = 'Write: pip install "apt-plugin[lerobot]" (Python 3.12).'
_CHECKOUT = "Run this in the environment of a checkout of {} in which apt-plugin is installed too."
HOSTS = {
    host.name: host
    for host in (
        # openpi and Isaac GR00T call themselves 0.1.0 whatever they hold: their probes tell.
        Host("lerobot", "lerobot", "lerobot", ">=0.6.1,<0.6.2", "LerobotAdapter", _LEROBOT),
        Host("openpi", "openpi", "openpi", ">=0.1.0,<0.2", "OpenpiAdapter", _CHECKOUT.format("openpi")),
        Host("gr00t", "gr00t", "gr00t", ">=0.1.0,<0.2", "GrootAdapter", _CHECKOUT.format("Isaac GR00T")),
    )
}


def adapter_for(command: Sequence[str]) -> Adapter:
    """The adapter of the host whose program a command line names.

    Raises:
        AptError: no host recognises it, or the one that does is not usable here.
    """
    if not (owner := owner_of(command)):
        raise AptError(
            f"No known host in {' '.join(command)!r}. Write the host's own command there, such as "
            "lerobot-train --policy.type=pi05 ...; apt-plugin run, check and cache take --recipe apt behind it."
        )
    return HOSTS[owner].open()


def owner_of(command: Sequence[str]) -> str:
    """The host whose program a command line names; "" where no host recognises it."""
    # The program stands before its flags, whose values may name anything (--dataset-path ./lerobot-data).
    tokens = (token for token in command if not Path(token).name.startswith("python"))
    found = (host.name for token in tokens for host in HOSTS.values() if host.adapter.recognises_program(token))
    return next(found, "")


def host_of(policy: str) -> str:
    """Which host wrote a checkpoint folder, by its files; of a policy on the hub, the one host that is installed.

    Raises:
        AptError: no folder and several hosts (name --host), or one that no host writes.
    """
    folder = Path(policy)
    if not folder.is_dir():
        usable = [host.name for host in HOSTS.values() if host.standing().usable]
        if len(usable) == 1 and not folder.is_absolute() and not policy.startswith("."):
            return usable[0]  # which looks for it on the hub
        raise AptError(
            f"{policy} is no folder here. If it is a policy on the hub, say whose it is: --host {' | '.join(HOSTS)}."
        )
    for host in HOSTS.values():
        if host.adapter.recognises(folder):
            return host.name
    with suppress(AptError):  # a run of ours: its newest checkpoint says
        return read_record(find_checkpoint(folder)).host.partition(" ")[0]
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


def allow(untested: bool) -> None:
    """`--apt.untested`: this process and those that it starts may train on an untested version."""
    if untested:
        os.environ[UNTESTED] = "1"
