"""The file of a LIBERO task (BDDL): its sentence, the goal that is scored, and what its scene holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError

SENTENCE = re.compile(r"\(:language\s+([^)]*)\)")
GOAL, WANTED = "(:goal", "(:obj_of_interest"


@dataclass(frozen=True)
class Task:
    """What a task's file says: its sentence, and the goal that is scored."""

    sentence: str
    goal: str


def read(path: Path) -> Task:
    """
    Raises:
        AptError: it cannot be read, or holds no `:language` and `:goal`.
    """
    return task(text_of(path), path)


def text_of(path: Path) -> str:
    """
    Raises:
        AptError: it cannot be read.
    """
    try:
        return path.read_text()
    except OSError as error:
        raise AptError(f"{path} cannot be read ({error.strerror}): is LIBERO installed whole?") from error


def task(text: str, path: Path) -> Task:
    """
    Raises:
        AptError: see `read`.
    """
    sentence, goal = SENTENCE.search(text), section(text, GOAL)
    if sentence is None or not goal:
        raise AptError(f"{path} holds no :language and :goal: it is no file of a LIBERO task.")
    return Task(sentence.group(1).strip(), " ".join(goal.split()))


def section(text: str, head: str) -> str:
    """A part of a file with its brackets, "" where there is none."""
    start = text.find(head)
    depth, end = 0, start
    for end in range(max(start, 0), len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if not depth:
            break
    return text[start : end + 1] if start >= 0 else ""


def goal_names(text: str) -> frozenset[str]:
    """The objects and regions that the goal of a file speaks of."""
    return frozenset(_leaves(_tree(section(text, GOAL))[0][1:]))


def wanted_names(text: str) -> frozenset[str]:
    """What the goal of a file is about: the first name of each of its conditions, the bowl of `(On bowl_1 plate_1)`."""
    return frozenset(condition[1] for condition in _conditions(_tree(section(text, GOAL) or "()")[0][1:]))


def scene_names(text: str) -> frozenset[str]:
    """All that a goal may speak of in a file: objects, fixtures, and regions, "<what they belong to>_<name>"."""
    found: set[str] = set()
    for head in ("(:objects", "(:fixtures"):
        words = re.sub(r"[()]", " ", section(text, head)).split()[1:]
        kinds = {place + 1 for place, word in enumerate(words) if word == "-"}
        found |= {word for place, word in enumerate(words) if word != "-" and place not in kinds}
    regions = _tree(section(text, "(:regions") or "()")[0]
    for region in (each for each in regions if isinstance(each, list)):
        target = next((part[1] for part in region[1:] if isinstance(part, list) and part[:1] == [":target"]), None)
        found |= {f"{target}_{region[0]}"} if target else set()
    return frozenset(found)


def with_task_of(text: str, other: str) -> str:
    """The scene of one file with the sentence, the goal and the objects of interest of another."""
    for head in (GOAL, WANTED):
        text = text.replace(section(text, head), section(other, head)) if section(text, head) else text
    sentence = SENTENCE.search(other)
    return text if sentence is None else SENTENCE.sub(lambda _: sentence.group(0), text, count=1)


def _tree(text: str) -> list[Any]:
    """Nested lists of words."""
    stack: list[list[Any]] = [[]]
    for word in re.findall(r"[()]|[^\s()]+", text):
        if word == "(":
            stack.append([])
        elif word == ")" and len(stack) > 1:
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(word)
    return stack[0]


def _leaves(parts: list[Any]) -> Iterator[str]:
    """Every word that is not the head of a list."""
    for part in parts:
        if isinstance(part, list):
            yield from _leaves(part[1:])
        else:
            yield part


def _conditions(parts: list[Any]) -> Iterator[list[str]]:
    """Every list of words alone, at any depth."""
    for part in (each for each in parts if isinstance(each, list)):
        if len(part) > 1 and all(isinstance(word, str) for word in part):
            yield part
        yield from _conditions(part)
