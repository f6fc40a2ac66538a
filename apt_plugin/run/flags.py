"""A host's flags, in order and editable, however they are spelt: `--name=value`, `--name value`, `-` or `_`.

Two dialects are met. draccus (lerobot) writes every value out, booleans too. tyro (openpi, Isaac GR00T) has switches:
`--a.name` and `--a.no-name`, and flags that take several values. Which one it is, the host says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from apt_plugin.errors import AptError

_SPELT = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}  # draccus reads YAML


@dataclass(frozen=True)
class _Given:
    """One flag as it was written, with the values behind it."""

    name: str  # without dashes, as written
    values: tuple[str, ...]
    tokens: tuple[str, ...]


def as_flag(name: str, value: str, switches: bool = False) -> str:
    """One token that sets a flag; a switch of tyro's is `--a.name` or `--a.no-name`."""
    if not switches or value not in ("true", "false"):
        return f"--{name}={value}"
    head, dot, last = name.rpartition(".")
    return f"--{name}" if value == "true" else f"--{head}{dot}no-{last}"


def _plain(name: str) -> str:
    return name.replace("_", "-")


@dataclass(frozen=True)
class Flags:
    """The flags of one command. Editing gives a new one; what is not edited stays as it was written.

    Args:
        head: what stands in front of the first flag (a config's name).
        switches: tyro's dialect.
    """

    given: tuple[_Given, ...] = ()
    head: tuple[str, ...] = ()
    switches: bool = field(default=False, kw_only=True)

    @classmethod
    def read(cls, tokens: Sequence[str], *, switches: bool = False) -> Flags:
        """Take a command line apart.

        Raises:
            AptError: a token that belongs to no flag, where a flag takes one value.
        """
        groups: list[list[str]] = [[]]
        for token in tokens:
            if token.startswith("--"):
                groups.append([token])
            else:
                groups[-1].append(token)
        head, *rest = groups
        given = []
        for first, *behind in rest:
            name, joined, value = first[2:].partition("=")
            values = [value, *behind] if joined else behind
            if not switches and (stray := values[1:]):
                raise AptError(f"Cannot tell which flag {stray[0]!r} belongs to. Write --name=value.")
            given.append(_Given(name, tuple(values), (first, *behind)))
        if head and not switches:
            raise AptError(f"Cannot tell which flag {head[0]!r} belongs to. Write --name=value.")
        return cls(tuple(given), tuple(head), switches=switches)

    def get(self, name: str) -> str | None:
        """The last value of a flag: "true" without one, "false" for a switch that is off; None where there is none.

        A yes or no that was written in capitals comes back small.
        """
        found = None
        for flag in self.given:
            if _plain(flag.name) == _plain(name):
                found = _SPELT.get(flag.values[-1], flag.values[-1]) if flag.values else "true"
            elif self.switches and self._off(flag) == _plain(name):
                found = "false"
        return found

    def _off(self, flag: _Given) -> str | None:
        """What a switch that is off is the opposite of."""
        head, dot, last = _plain(flag.name).rpartition(".")
        return head + dot + last.removeprefix("no-") if last.startswith("no-") and not flag.values else None

    def without(self, *names: str, prefix: str | None = None) -> Flags:
        """Drop flags with their values."""
        gone = {_plain(name) for name in names}

        def drops(flag: _Given) -> bool:
            name = _plain(flag.name)
            off = self._off(flag) if self.switches else None
            return name in gone or off in gone or (prefix is not None and name.startswith(_plain(prefix)))

        return Flags(tuple(f for f in self.given if not drops(f)), self.head, switches=self.switches)

    def with_(self, values: Mapping[str, str]) -> Flags:
        """Set flags, replacing earlier values."""
        out = self.without(*values)
        added = []
        for name, value in values.items():
            token = as_flag(name, value, self.switches)
            written, joined, _ = token[2:].partition("=")
            added.append(_Given(written, (value,) if joined else (), (token,)))
        return Flags((*out.given, *added), self.head, switches=self.switches)

    def tokens(self) -> list[str]:
        """As a command line."""
        return [*self.head, *(token for flag in self.given for token in flag.tokens)]
