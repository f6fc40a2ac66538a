"""Numbers into words: listens, listens to some words, deaf, the data cannot teach it, or too few frames to tell.

Thresholds, calibrated on policies whose behaviour is known exactly (tests/tabletop/test_listen_known.py):

    heard           a score's interval lies above what a deaf policy has (chance)
    clearly heard   and the score is at least STRONG of the way from chance to perfect
    to the letter   other words for the same move the action at least TO_THE_LETTER of what other instructions do
    by heart        instructions that a scene never came with take the action away from what it is without any
                    by less than BY_HEART of what familiar ones do
    too few         not one number: fewer frames than `scores.FEWEST` had something to compare
    no language     the image leaves less than `probe.LEAVES_NOTHING` bits of the instruction
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from apt_plugin.listen import words
from apt_plugin.listen.probe import Ambiguity
from apt_plugin.listen.scores import FEWEST, Score

LISTENS, SOME, DEAF, DATA = "listens", "listens to some words", "deaf", "data cannot teach it"
TOO_FEW = "too few frames to tell"
STRONG = 0.4
BY_HEART = 0.25
TO_THE_LETTER = 0.5


@dataclass(frozen=True)
class Verdict:
    """One of the five words above, why, and what to do about it."""

    word: str
    why: list[str]
    advice: list[str]

    def sentences(self) -> list[str]:
        return [f"Verdict: {self.word}.", *self.why, *self.advice]


def judge(scores: Mapping[str, Score], ambiguity: Ambiguity | None, frames: int | None = None) -> Verdict:
    """From scores and, where first frames were probed, the ambiguity of the data; `frames`: how many were asked."""
    why: list[str] = []
    advice: list[str] = []
    retrieval = scores.get("retrieval")
    heard_words = [name for name in words.ATTRIBUTES if name in scores and scores[name].heard]
    deaf_words = [name for name in words.ATTRIBUTES if name in scores and not scores[name].heard]
    if retrieval is not None:
        why.append(
            f"The true instruction explains the demonstrated actions best in {_percent(retrieval)}, chance is "
            f"{100 * (retrieval.chance or 0):.0f} %. That says whether it hears."
        )
    if (margin := scores.get("margin")) is not None:
        why.append(
            f"How much hangs on the words: under others the loss is {math.exp(margin.value):.2f} times as large "
            f"({math.exp(margin.low):.2f} to {math.exp(margin.high):.2f}); compare policies by this."
        )
    if ambiguity is not None:
        why.append(ambiguity.sentence())
    if retrieval is None and not heard_words and not deaf_words:
        seen = "Some" if frames is None else str(frames)
        why.insert(0, f"{seen} frames were asked about; a number takes {FEWEST} that have something to compare with.")
        advice.append(f"Write --frames 64 (the default; {FEWEST} at least), or name a data set with as many frames.")
        return Verdict(TOO_FEW, why, advice)
    anything = (retrieval is not None and retrieval.heard) or bool(heard_words)
    if not anything:
        if ambiguity is not None and not ambiguity.teaches:
            advice.append("Nothing in training can help before the data have several tasks per scene.")
            return Verdict(DATA, why, advice)
        if (moved := scores.get("sensitivity")) is not None and moved.low > 0.5:
            why.append(
                f"Other words do move the action ({moved.value:.2f} of what noise does), but not to what they say."
            )
        advice.append(
            "The data need language and the policy does not use it: train the VLM too, from the time that the expert "
            "has learned something (--recipe warmup) or beside gates (--recipe apt), add demonstrations that differ in "
            "nothing but the words; see what --guidance 0 1 1.5 2 does."
        )
        return Verdict(DEAF, why, advice)
    heart = scores.get("foreign")
    by_heart = heart is not None and heart.high < BY_HEART
    moved, same = scores.get("sensitivity"), scores.get("paraphrase")
    literal = moved is not None and same is not None and moved.value > 0 and same.low > TO_THE_LETTER * moved.value
    weak = retrieval is not None and retrieval.strength < STRONG
    if heard_words:
        why.append(f"Heard: {', '.join(heard_words)}.")
    if deaf_words:
        why.append(f"Not heard: {', '.join(deaf_words)}.")
    if by_heart and heart is not None:
        why.append(
            f"Instructions that such scenes never came with count for {heart.value:.2f} of familiar ones: the policy "
            "does what it does without any. Pairs of scene and instruction seem to be learnt by heart."
        )
        advice.append("Vary which tasks come with which scene; unseen pairs will fail.")
    if literal:
        why.append("Other words with the same meaning move the action like another task: only the exact text is known.")
        advice.append("Train on several wordings of each task.")
    if weak and not deaf_words and not by_heart:
        why.append("The true instruction is preferred more often than by chance, but far from always.")
        advice.append("Train Stage 2 longer, or raise guidance_scale, and look again.")
    if deaf_words:
        advice.append(f"Add pairs of demonstrations that differ in nothing but the {' or the '.join(deaf_words)}.")
    if deaf_words or by_heart or literal or weak:
        return Verdict(SOME, why, advice)
    if ambiguity is not None and not ambiguity.teaches:
        advice.append("It listens although these data did not need it to: the pretrained policy already did.")
    return Verdict(LISTENS, why, advice)


def _percent(score: Score) -> str:
    return f"{100 * score.value:.0f} % of frames ({100 * score.low:.0f} to {100 * score.high:.0f})"
