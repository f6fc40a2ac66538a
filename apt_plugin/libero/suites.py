"""The suites of the installed LIBERO or LIBERO-PRO, as evaluators read them, told by the goal that is scored.

A suite that changes nothing of a task's goal and sentence keeps the sentence that its data sets have.

`<suite>_counterfactual` has every scene of a suite with every *other* task of the suite whose goal that scene allows: a
policy that goes by the scene alone does its usual task there, and fails.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.listen import bddl, scored

COUNTERFACTUAL = "_counterfactual"
CHANGES = ("_task", "_swap", "_lan", "_object", "_env", COUNTERFACTUAL)


@dataclass(frozen=True)
class Suite:
    """What evaluators ask of a suite.

    `tasks`: LIBERO's own tuples (name, language, problem_folder, bddl_file, ...); `starts`: for each, the task of
    `first` that its episodes begin as.
    """

    name: str
    tasks: Sequence[Any]
    first: Any  # the suite that it was made from
    starts: Sequence[int]

    @property
    def n_tasks(self) -> int:
        return len(self.tasks)

    def get_num_tasks(self) -> int:
        return len(self.tasks)

    def get_task(self, index: int) -> Any:
        return self.tasks[index]

    def get_task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def get_task_bddl_file_path(self, index: int) -> str:
        return str(scored.file_of(self.tasks[index]))

    def get_task_init_states(self, index: int) -> Any:
        """[N, width] float64, the simulator's states at the start of N episodes."""
        return self.first.get_task_init_states(self.starts[index])

    def usual(self, index: int) -> frozenset[str]:
        """What the scene's own task is about, in the suite that all changes began with.

        Raises:
            AptError: its file is not there.
        """
        task = self.first.tasks[self.starts[index]]
        before = scored.file_of(task._replace(problem_folder=base_of(self.name)))
        return bddl.wanted_names(bddl.text_of(before if before.is_file() else scored.file_of(task)))


def base_of(name: str) -> str:
    """The suite that another was made from: `libero_goal` of `libero_goal_task`."""
    for change in CHANGES:
        name = name if name == f"libero{change}" else name.removesuffix(change)
    return name


def of(name: str, known: Mapping[str, Any] | None = None) -> Suite:
    """A suite by its name.

    Args:
        known: LIBERO's own registry, where it is not to be asked.

    Raises:
        AptError: no LIBERO here, no such suite, a file that is not there, or a scene that allows one task only.
    """
    known, inner = scored.registry() if known is None else known, name.removesuffix(COUNTERFACTUAL)
    made = scored.made(inner, known)
    if name != inner:
        return _counterfactual(name, made)
    told = zip(made.tasks, scored.suite(name, known), strict=True)
    return Suite(name, [task._replace(language=each.sentence) for task, each in told], made, range(len(made.tasks)))


def _counterfactual(name: str, made: Any) -> Suite:
    texts = [bddl.text_of(scored.file_of(task)) for task in made.tasks]
    tasks, starts = [], []
    for scene, other in pairs(texts):
        text, there = bddl.with_task_of(texts[scene], texts[other]), made.tasks[scene]
        stem = f"{Path(there.bddl_file).stem}__{Path(made.tasks[other].bddl_file).stem}"
        path = folder(text) / f"{stem}.bddl"
        if not path.is_file():
            files.write_bytes(path, text.encode())
        # An absolute folder: evaluators join it to LIBERO's own, and it wins.
        changed = {
            "name": stem,
            "language": made.tasks[other].language,
            "problem_folder": str(path.parent),
            "bddl_file": path.name,
        }
        tasks.append(there._replace(**changed))
        starts.append(scene)
    if not tasks:
        raise AptError(
            f"{name}: no scene of this suite allows another task of it, so there is nothing to ask. libero_object and "
            "libero_goal have such scenes."
        )
    return Suite(name, tasks, made, starts)


def pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(scene, other task): the scene holds all that the other task's goal speaks of, and the goal is another one."""
    goals = [" ".join(bddl.section(text, bddl.GOAL).split()) for text in texts]
    holds, wants = [bddl.scene_names(text) for text in texts], [bddl.goal_names(text) for text in texts]
    for scene in range(len(texts)):
        asked = {goals[scene]}
        for other in range(len(texts)):
            if goals[other] not in asked and wants[other] <= holds[scene]:
                asked.add(goals[other])  # another file may want the same
                yield scene, other


def folder(text: str) -> Path:
    """Where a made task's file lies: in the user's cache, by its bytes, so that processes share it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "apt-plugin" / "libero" / hashlib.sha256(text.encode()).hexdigest()[:16]
