"""Do the words arrive? What the policy's own processors make of each instruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apt_plugin.errors import AptError
from apt_plugin.listen.causes.cause import Cause, Question, some
from apt_plugin.listen.evidence import Arrived

if TYPE_CHECKING:
    from apt_plugin.listen.evidence import Evidence

QUESTION = Question("words", "Do the words arrive?", "The words do not arrive")
MOST = 32  # different instructions that are looked at


def look(task: Sequence[str], evidence: Evidence) -> Cause:
    """The cause from the prompts of up to MOST frames with different instructions; `task`: of every frame."""
    rows = [task.index(text) for text in dict.fromkeys(task) if text.strip()][:MOST]
    texts = [task[row] for row in rows]
    if not rows:
        return QUESTION.found(["No frame has an instruction."], "Name a data set with instructions.")
    if indices := [text for text in texts if not any(c.isalpha() for c in text)]:
        said = f"The data hand over {indices[0]!r} where an instruction should stand: a number is not a sentence."
        return QUESTION.found([said], "Put the task's text into the data set (in LeRobot data: meta/tasks).")
    try:
        worded, blank = evidence.arrived(rows, texts), evidence.arrived(rows, [""] * len(rows))
        same = evidence.arrived([rows[0]] * len(rows), texts)  # one frame: only the words differ
    except AptError as error:
        return QUESTION.found([str(error)], "Give the policy's processor room for the longest instruction.")
    if worded is None or blank is None or same is None:
        return QUESTION.unknown("This policy does not show its prompts.")
    return _judged(texts, worded, blank, same, evidence.room)


def _judged(
    texts: list[str], worded: list[Arrived], blank: list[Arrived], same: list[Arrived], room: str = ""
) -> Cause:
    empty = [text for text, a, b in zip(texts, worded, blank, strict=True) if not a.tokens or a.tokens == b.tokens]
    if empty:
        said = f"{len(empty)} of {len(texts)} instructions leave nothing in the prompt, such as {empty[0]!r}."
        return QUESTION.found(
            [said], "Look at the key under which the processor reads the text: it finds none (LeRobot: `task`)."
        )
    cut = [(t, a) for t, a in zip(texts, worded, strict=True) if a.full and a.text and not _whole(t, a.text)]
    if cut:
        text, arrived = cut[0]
        said = f"{len(cut)} of {len(texts)} instructions are cut at {arrived.limit} tokens: {text!r} ends in "
        said += f"{arrived.text[-40:]!r}."
        return QUESTION.found([said], f"Raise the limit{room and f': {room}'}.")
    meets: dict[tuple[int, ...], list[str]] = {}
    for text, arrived in zip(texts, same, strict=True):
        meets.setdefault(arrived.tokens, []).append(text)
    if len(meets) == 1 and len(texts) > 1:
        said = f"{len(texts)} different instructions give one and the same prompt: {worded[0].text[:80]!r}."
        return QUESTION.found([said], "Something writes a constant text over the instruction: look for it there.")
    if twins := next((group for group in meets.values() if len(group) > 1), None):
        said = f"{some([repr(text) for text in twins])} give one and the same prompt."
        return QUESTION.found([said], "The difference is normalised away: use a tokenizer that keeps it.")
    altered = [(t, a.text) for t, a in zip(texts, worded, strict=True) if a.text and not _whole(t, a.text)]
    if altered:
        text, shown = altered[0]
        said = f"{len(altered)} of {len(texts)} instructions arrive with other words: {text!r} as {shown[:120]!r}."
        return QUESTION.found([said], "Use the tokenizer and the processors that the VLM was trained with.")
    longest = max(len(a.tokens) for a in worded)
    of = f" of {worded[0].limit}" if worded[0].limit else ""
    said = f"{len(texts)} instructions were read back from the prompt, whole and different; the longest prompt has "
    return QUESTION.ruled_out(f"{said}{longest}{of} tokens. One of them: {worded[0].text.strip()[:100]!r}.")


def _whole(text: str, prompt: str) -> bool:
    return squeezed(text) in squeezed(prompt)


def squeezed(text: str) -> str:
    """Letters and digits alone: tokenizers differ in case, space and punctuation, and none of it is a word."""
    return "".join(c for c in text.lower() if c.isalnum())
