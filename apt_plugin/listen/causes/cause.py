"""One cheap cause: a question, its answer, the evidence and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FOUND, RULED_OUT, NOT_KNOWN = "found", "ruled out", "not known"


@dataclass(frozen=True)
class Cause:
    """`title`: what is wrong where it is found; `evidence`: what was seen; `advice`: what to do, "" where nothing;
    `value`: the number behind it, where there is one."""

    name: str
    question: str
    title: str
    state: str
    evidence: list[str]
    advice: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Question:
    """A cause before it is answered."""

    name: str
    question: str
    title: str

    def found(self, evidence: Sequence[str], advice: str) -> Cause:
        return Cause(self.name, self.question, self.title, FOUND, list(evidence), advice)

    def ruled_out(self, *evidence: str) -> Cause:
        return Cause(self.name, self.question, self.title, RULED_OUT, list(evidence))

    def unknown(self, why: str, advice: str = "") -> Cause:
        return Cause(self.name, self.question, self.title, NOT_KNOWN, [why], advice)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
