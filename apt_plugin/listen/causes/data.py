"""Can the data teach it? Instructions that say something, several of them, and scenes that come with more than one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apt_plugin.listen import words
from apt_plugin.listen.causes.cause import Cause, Question, some

if TYPE_CHECKING:
    from apt_plugin.listen.probe import Ambiguity

QUESTION = Question("data", "Can the data teach it?", "The data cannot teach it")
SAY_NOTHING = frozenset(
    "task tasks todo test tests none null nan default dummy unknown instruction prompt language n/a demo".split()
)
RECORD = "Record several tasks in the same scene, and label each with its own sentence."


def look(tasks: Sequence[str], labels: Sequence[str] | None, ambiguity: Ambiguity | None) -> Cause:
    """The cause.

    Args:
        tasks: every instruction of the data set; labels: of every episode, where the host tells.
    """
    silent = sum(not text.strip() for text in labels or ())
    nothing = [text for text in tasks if _says_nothing(text)]
    spoken = [text for text in tasks if text not in nothing]
    if nothing:
        said = [f"{len(nothing)} of {len(tasks)} instructions say nothing: {some([repr(t) for t in nothing])}."]
        return QUESTION.found(said, "Write what the robot does into the data set's tasks.")
    if len(set(spoken)) < 2:
        only = f"The data set has one instruction: {spoken[0]!r}." if spoken else "The data set has no instruction."
        return QUESTION.found([only], RECORD)
    if ambiguity is not None and not ambiguity.teaches:
        return QUESTION.found([ambiguity.sentence()], RECORD)
    said = [f"{len(set(spoken))} instructions."]
    if ambiguity is not None:
        said.append(ambiguity.sentence())
    if labels is not None and silent:
        said.append(f"{silent} of {len(labels)} episodes have none.")
    if not _reworded(spoken):
        said.append("Each task comes in one wording: a policy may learn the exact text. Add a few wordings of each.")
    return QUESTION.ruled_out(*said)


def _says_nothing(text: str) -> bool:
    """A placeholder, a number, or a name with a number: task_3."""
    bare = [word for word in text.lower().replace("_", " ").replace("-", " ").split() if not word.isdigit()]
    return all(word.strip(".:#0123456789") in SAY_NOTHING | {""} for word in bare)


def _reworded(tasks: Sequence[str]) -> bool:
    """Whether some instruction is another one in other words, as far as our own synonyms tell."""
    every = set(tasks)
    return any(other in every for task in tasks for other in words.paraphrases(task))
