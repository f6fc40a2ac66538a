"""Which word of an instruction is a colour, a relation, a verb or a noun, and what it can be swapped for.

Lexicons for what is closed (colours, relations, verbs); a noun is what is left and varies over the data set's own
instructions. Swaps stay inside the data set's vocabulary, so that a policy is not asked about words nobody taught it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

ATTRIBUTES = ("colour", "noun", "relation", "verb")
COLOURS = frozenset(
    "red green blue yellow orange purple violet pink brown black white grey gray cyan magenta teal silver gold".split()
)
RELATIONS = frozenset(
    "left right front back behind above below under on in inside into near next top bottom middle between beside "
    "onto over upper lower first second third".split()
)
VERBS = frozenset(
    "pick put place push pull open close grasp grab reach lift move turn stack pour press slide take insert hold drop "
    "rotate flip wipe fold hang touch bring set".split()
)
_STOP = frozenset("the a an and to of up down it its then with from at is please this that both".split())
# Same meaning, other words. The first group member found in an instruction is exchanged for the next one.
_SYNONYMS = (
    ("pick up", "grab", "take"), ("put", "place", "set"), ("reach", "go to"), ("grasp", "grab"), ("push", "move"),
    ("open", "pull open"), ("close", "shut"), ("next to", "beside"), ("in front of", "before"), ("on top of", "onto"),
    ("into", "inside"),
)  # fmt: skip
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*", re.I)


def kind_of(word: str, nouns: frozenset[str]) -> str | None:
    """colour | noun | relation | verb, or None for words that carry no attribute."""
    low = word.lower()
    for kind, words in (("colour", COLOURS), ("relation", RELATIONS), ("verb", VERBS), ("noun", nouns)):
        if low in words:
            return kind
    return None


def nouns_of(tasks: Sequence[str]) -> frozenset[str]:
    """Words in no lexicon that some instructions have and others have not."""
    bags = [{word.lower() for word in _WORD.findall(task)} for task in tasks]
    every = set().union(*bags) if bags else set()
    return frozenset(
        word
        for word in every - COLOURS - RELATIONS - VERBS - _STOP
        if len(tasks) == 1 or not all(word in bag for bag in bags)
    )


def swaps(text: str, attribute: str, tasks: Sequence[str]) -> list[str]:
    """`text` with one word of that attribute exchanged for each other one of the data set's, its own tasks first."""
    nouns = nouns_of(tasks)
    found = {word.lower() for task in tasks for word in _WORD.findall(task) if kind_of(word, nouns) == attribute}
    made = [
        text[: match.start()] + _like(match[0], other) + text[match.end() :]
        for match in _WORD.finditer(text)
        if kind_of(match[0], nouns) == attribute
        for other in sorted(found - {match[0].lower()})
    ]
    known = set(tasks)
    return sorted(dict.fromkeys(made), key=lambda each: each not in known)


def paraphrases(text: str) -> Iterator[str]:
    """The same request in other words: synonyms first, then politeness."""
    for group in _SYNONYMS:
        for old, new in zip(group, (*group[1:], group[0]), strict=True):
            if re.search(rf"\b{old}\b", text, re.I):
                yield re.sub(rf"\b{old}\b", lambda match, new=new: _like(match[0], new), text, count=1, flags=re.I)
    yield f"please {text[:1].lower()}{text[1:]}"
    yield f"now {text[:1].lower()}{text[1:]}"


def _like(old: str, new: str) -> str:
    """The capital of the word that is replaced."""
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
