"""Cheap causes of deafness, ruled out in order before any verdict.

weights      are the tensors there, finite, trained, the base's?
words        what do the processors make of the prompt?
data         can the data teach it?
statistics   do they fit the data?
retention    does the VLM still tell instructions apart as its base does?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apt_plugin.listen.causes import data, retention, statistics, weights, words
from apt_plugin.listen.causes.cause import FOUND, NOT_KNOWN, RULED_OUT, Cause
from apt_plugin.listen.verdict import LISTENS, Verdict

if TYPE_CHECKING:
    from apt_plugin.listen.evidence import Base
    from apt_plugin.listen.probe import Ambiguity
    from apt_plugin.listen.subject import Listener

__all__ = ["FOUND", "NOT_KNOWN", "RULED_OUT", "Cause", "after", "found", "rule_out", "sentence"]


def rule_out(listener: Listener, ambiguity: Ambiguity | None = None, base: Base | None = None) -> list[Cause]:
    """All causes, in the order in which they are worth a look.

    Args:
        ambiguity: what a probe found of first frames; base: the VLM that the policy started from.
    """
    evidence = listener.evidence()
    return [
        weights.look(evidence.tensors(), base),
        words.look(listener.frames.task, evidence),
        data.look(listener.tasks, evidence.labels(), ambiguity),
        statistics.look(listener.frames, evidence.state()),
        retention.look(listener.frames.task, listener.tasks, evidence, base),
    ]


def found(causes: Sequence[Cause]) -> list[Cause]:
    return [cause for cause in causes if cause.state == FOUND]


def sentence(causes: Sequence[Cause]) -> str:
    """The answer in one line."""
    if caught := found(causes):
        return f"Found first: {'; '.join(cause.title for cause in caught)}. Mend this, then ask again."
    open_ = [cause.question for cause in causes if cause.state == NOT_KNOWN]
    return "No cheap cause was found." + (f" Not known: {' '.join(open_)}" if open_ else "")


def after(verdict: Verdict, causes: Sequence[Cause]) -> Verdict:
    """A verdict that says first which cheap cause stands before it; its own advice waits until that is mended."""
    if not (caught := found(causes)) or verdict.word == LISTENS:
        return verdict
    why = [f"{cause.title}: {' '.join(cause.evidence)}" for cause in caught]
    return Verdict(verdict.word, [*why, *verdict.why], [*(c.advice for c in caught), "Mend this, then ask again."])
