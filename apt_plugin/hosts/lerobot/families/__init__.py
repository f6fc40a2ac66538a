"""The policy families of lerobot under the recipe: one line each. Imports no host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.families.family import Family
from apt_plugin.hosts.lerobot.families.groot import GROOT
from apt_plugin.hosts.lerobot.families.pi import PI
from apt_plugin.hosts.lerobot.families.smolvla import SMOLVLA

FAMILIES: tuple[Family, ...] = (
    PI,
    GROOT,
    SMOLVLA,
)

# lerobot's policy type -> ours. The value of `policy` in a record is the host's.
POLICIES = {host: ours for family in FAMILIES for host, ours in family.policies.items()}
_BY_TYPE = {kind: family for family in FAMILIES for pair in family.policies.items() for kind in pair}


def find(kind: str | None) -> Family | None:
    """The family of a policy type, stock or ours, at the host's sizes or others (pi05_tiny); None of a foreign one."""
    return _BY_TYPE.get(unsized(kind or ""))


def of(kind: str) -> Family:
    """The same of a type that is known to have one."""
    return _BY_TYPE[unsized(kind)]


def unsized(kind: str) -> str:
    """A stock type at other sizes names the host's in front: pi05_tiny is a pi05 (apt_plugin.tabletop)."""
    bare = kind.removesuffix("_tiny")
    return bare if bare in POLICIES else kind


def host_type(kind: str) -> str:
    """lerobot's policy type behind one of ours."""
    return next((host for host, ours in POLICIES.items() if ours == kind), unsized(kind))


def read_switches(written: Mapping[str, str]) -> dict[str, Any]:
    """Name -> what a family's switch was set to on a command line.

    Raises:
        AptError: neither true, false nor a number.
    """
    found = {}
    for name, value in written.items():
        try:
            found[name] = json.loads(value)
        except ValueError as error:
            raise AptError(
                f"--policy.{name} is {value!r}; write true or false, or a number where it counts."
            ) from error
    return found
