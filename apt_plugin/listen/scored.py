"""Does an evaluator tell the policy what it scores? LIBERO's suites, as they are installed here.

LIBERO takes a task's sentence from the name of its file. What is scored is the goal inside the file, beside a sentence
of its own. A suite that changes the goal or the sentence and keeps the name tells one task and scores another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError, did_you_mean
from apt_plugin.listen.bddl import Task, read
from apt_plugin.listen.causes.cause import Cause, Question
from apt_plugin.listen.causes.words import squeezed

QUESTION = Question(
    "evaluator", "Does the evaluator tell what it scores?", "The evaluator tells another task than it scores"
)
CHANGES = ("task", "swap", "lan", "object", "env")  # what LIBERO-PRO appends to the name of the suite that it changes
REMEDY = (
    "Roll out with the sentence of the file: lerobot-eval with --env.type=libero_scored "
    "--env.discover_packages_path=apt_plugin.libero.host, any other evaluator behind `python -m apt_plugin.libero`. Or "
    "report no success of it."
)


@dataclass(frozen=True)
class Scored:
    """One task of a suite.

    Args:
        told: what the evaluator tells the policy; own: what the task's file says.
        first: what the file of that name says in the suite that this one changes; None where it changes none.
    """

    told: str
    own: Task
    first: Task | None

    @property
    def worded(self) -> bool:
        """The file has other words. So have many of the unchanged suites, for the same goal."""
        return squeezed(self.told) != squeezed(self.own.sentence)

    @property
    def untold(self) -> bool:
        """The suite changed the sentence, and the policy is told another one."""
        return self.first is not None and self.worded and squeezed(self.own.sentence) != squeezed(self.first.sentence)

    @property
    def other_goal(self) -> bool:
        """It changed the goal, too."""
        return self.untold and self.first is not None and self.own.goal != self.first.goal

    @property
    def sentence(self) -> str:
        """What the policy must be told."""
        return self.own.sentence if self.untold else self.told


def registry() -> dict[str, Any]:
    """Name -> suite class of the LIBERO that is installed here.

    Raises:
        AptError: it does not import.
    """
    try:
        from libero.libero import benchmark  # type: ignore[import-not-found]
    except ImportError as error:
        raise AptError(f"This needs LIBERO in this environment, and it does not import: {error}.") from error
    return benchmark.get_benchmark_dict()


def made(name: str, known: Mapping[str, Any]) -> Any:
    """LIBERO's own suite.

    Raises:
        AptError: an unknown one.
    """
    if name not in known:
        raise AptError(f"The installed LIBERO has no suite {name!r}.{did_you_mean(name, known)}")
    return known[name]()


def file_of(task: Any) -> Path:
    """Where the file of one of LIBERO's tasks lies."""
    from libero.libero import get_libero_path  # type: ignore[import-not-found]

    return Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file


def suite(name: str, known: Mapping[str, Any] | None = None) -> list[Scored]:
    """Every task of a suite, through the LIBERO or LIBERO-PRO that is installed here.

    Raises:
        AptError: no LIBERO here, an unknown suite, a file that is not there.
    """
    known = registry() if known is None else known
    tasks, (first, _, change) = made(name, known).tasks, name.rpartition("_")
    found = []
    for task in tasks:
        before = file_of(task._replace(problem_folder=first))
        changes = change in CHANGES and first in known and before.is_file()
        found.append(Scored(task.language, read(file_of(task)), read(before) if changes else None))
    return found


def look(tasks: Sequence[Scored]) -> Cause:
    """The cause from every task of a suite."""
    if not tasks:
        return QUESTION.unknown("The suite has no task.")
    goals, untold = [t for t in tasks if t.other_goal], [t for t in tasks if t.untold]
    worded = [t for t in tasks if t.worded]
    if goals:
        said = f"In {len(goals)} of {len(tasks)} tasks the policy is told one goal and scored on another: told "
        return QUESTION.found([f"{said}{goals[0].told!r}, scored on {goals[0].own.sentence!r}."], REMEDY)
    if untold:
        said = f"In {len(untold)} of {len(tasks)} tasks the policy is told the old sentence and not the suite's: told "
        return QUESTION.found([f"{said}{untold[0].told!r}, the file says {untold[0].own.sentence!r}."], REMEDY)
    said = [f"{len(tasks)} tasks: what is told is what is scored."]
    if worded:
        said.append(f"{len(worded)} files say it in other words, such as {worded[0].own.sentence!r}.")
    return QUESTION.ruled_out(*said)
