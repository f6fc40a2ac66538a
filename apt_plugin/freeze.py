"""Which parameters stay as they are, and the proof that they did."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from apt_plugin.errors import AptError, did_you_mean

PREFIX = "apt_"  # every parameter this plugin adds carries it


def added(name: str) -> bool:
    """Whether a dotted (or slashed) parameter name is ours: one of its parts begins with `apt_`."""
    return any(part.startswith(PREFIX) for part in re.split(r"[./]", name))


def matching(patterns: Sequence[str], names: Iterable[str]) -> set[str]:
    """Names that any pattern finds (re.search).

    Raises:
        AptError: a pattern that matches nothing. lerobot's own such pattern stopped matching after an upgrade
            and trained what users thought frozen (its issue 4018), so silence is not an option.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        try:
            hits = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise AptError(f"freeze pattern {pattern!r} is not a regular expression: {error}.") from error
        if not hits:
            parts = {part for name in names for part in name.split(".")}
            raise AptError(
                f"freeze pattern {pattern!r} matches none of {len(names)} parameters."
                + did_you_mean(pattern, parts)[:400]
            )
        found |= hits
    return found


def digest(parameters: Iterable[tuple[str, str, tuple[int, ...], np.ndarray]]) -> str:
    """SHA-256 over (name, dtype, shape, bytes) in name order: equal only if every bit is.

    Args:
        parameters: (name, dtype as text, shape, the raw bytes as a contiguous uint8 array).
    """
    return digest_sorted(sorted(parameters, key=lambda item: item[0]))


def digest_sorted(parameters: Iterable[tuple[str, str, tuple[int, ...], np.ndarray]]) -> str:
    """`digest` of parameters that come in name order, one in memory at a time."""
    total = hashlib.sha256()
    for name, dtype, shape, data in parameters:
        total.update(f"{name}|{dtype}|{tuple(shape)}|".encode())
        total.update(memoryview(data).cast("B"))
    return total.hexdigest()


def layout(shapes: dict[str, tuple[int, ...]]) -> str:
    """SHA-256 of parameter names and shapes, ours left out: two checkpoints of one architecture agree on it."""
    text = "\n".join(f"{name} {tuple(shapes[name])}" for name in sorted(shapes) if not added(name))
    return hashlib.sha256(text.encode()).hexdigest()
