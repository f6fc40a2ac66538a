"""Does an evaluator tell the policy what it scores? LIBERO's suites, as they are installed here.

LIBERO takes a task's sentence from the name of its file. What is scored is the goal inside the file, beside a sentence
of its own. A suite that changes the goal or the sentence and keeps the name tells one task and scores another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apt_plugin.errors import AptError, did_you_mean
from apt_plugin.listen.causes.cause import Cause, Question
from apt_plugin.listen.causes.words import squeezed

QUESTION = Question(
    "evaluator", "Does the evaluator tell what it scores?", "The evaluator tells another task than it scores"
)
CHANGES = ("task", "swap", "lan", "object", "env")  # what LIBERO-PRO appends to the name of the suite that it changes
REMEDY = (
    "Hand the policy the sentence of the file's `:language` in place of `task.language` (lerobot: envs/libero.py, "
    "openpi: examples/libero/main.py, Isaac GR00T: gr00t/eval/sim/LIBERO/libero_env.py), or report no success of it."
)


@dataclass(frozen=True)
class Task:
    """What a task's file says: its sentence, and the goal that is scored."""

    sentence: str
    goal: str


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


def suite(name: str) -> list[Scored]:
    """Every task of a suite, through the LIBERO or LIBERO-PRO that is installed here.

    Raises:
        AptError: no LIBERO here, an unknown suite, a file that is not there.
    """
    try:
        from libero.libero import benchmark, get_libero_path  # type: ignore[import-not-found]
    except ImportError as error:
        raise AptError(f"--suite {name} needs LIBERO in this environment, and it does not import: {error}.") from error
    known = benchmark.get_benchmark_dict()
    if name not in known:
        raise AptError(f"--suite {name}: the installed LIBERO has no such suite.{did_you_mean(name, known)}")
    made, root = known[name](), Path(get_libero_path("bddl_files"))
    first, _, change = name.rpartition("_")
    found = []
    for task in (made.get_task(index) for index in range(made.n_tasks)):
        before = root / first / task.bddl_file
        changes = change in CHANGES and first in known and before.is_file()
        own = read(root / task.problem_folder / task.bddl_file)
        found.append(Scored(task.language, own, read(before) if changes else None))
    return found


def read(path: Path) -> Task:
    """A task's file.

    Raises:
        AptError: it cannot be read, or holds no `:language` and `:goal`.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise AptError(f"{path} cannot be read ({error.strerror}): is LIBERO installed whole?") from error
    sentence, start = re.search(r"\(:language\s+([^)]*)\)", text), text.find("(:goal")
    if sentence is None or start < 0:
        raise AptError(f"{path} holds no :language and :goal: it is no file of a LIBERO task.")
    depth, end = 0, start
    for end in range(start, len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if not depth:
            break
    return Task(sentence.group(1).strip(), " ".join(text[start : end + 1].split()))


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
