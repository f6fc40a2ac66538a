"""What a trial's folder is about. The same command goes on in it; another one is refused.

<trial>/data.json   what the host read of the episodes: instructions, and whether they can teach anybody to listen
<trial>/plan.json   the command, the steps of a run, which episodes are held out
<trial>/trained-on  a copy of the episodes that are trained on, where the host takes no list of them
<trial>/asked.json  the instructions that each frame was asked under, the same for every way
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.listen.causes import FOUND, Cause
from apt_plugin.listen.causes.data import look
from apt_plugin.listen.probe import Probe
from apt_plugin.listen.run import ambiguity
from apt_plugin.trial.pilot import Episodes

DATA, PLAN, ASKED = "data.json", "plan.json", "asked.json"
PACE = "pace"  # the runs by which the seconds of a step are measured, where hours or equal time are asked for
CACHE = "cache"  # features of a frozen VLM, where they are shared
EPISODES = "trained-on"  # the episodes that are trained on, where a host reads whole folders


def stated(episodes: Episodes) -> dict[str, Any]:
    """What a process that imports the host leaves for the trial."""
    texts = sorted({text for text in episodes.labels.values() if text.strip()})
    probe = Probe(episodes.features, episodes.tasks) if len(set(episodes.tasks)) > 1 else None
    cause = look(texts, list(episodes.labels.values()), ambiguity(probe))
    return {"labels": {str(episode): text for episode, text in episodes.labels.items()}, "cause": vars(cause)}


def labels(data: Mapping[str, Any]) -> dict[int, str]:
    """Episode -> instruction.

    Raises:
        AptError: data that cannot teach anybody to listen.
    """
    cause = Cause(**data["cause"])
    if cause.state == FOUND:
        raise AptError(f"{cause.title}: {' '.join(cause.evidence)} {cause.advice} Nothing was trained.")
    return {int(episode): text for episode, text in data["labels"].items()}


def settle(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan, or find the same there. Ways and training runs may be added to a trial later.

    Raises:
        AptError: a folder of another trial.
    """
    check(folder, plan)
    if not (folder / PLAN).is_file():
        files.write_json(folder / PLAN, dict(plan))


def check(folder: Path, plan: Mapping[str, Any]) -> None:
    """
    Raises:
        AptError: a folder of another trial.
    """
    path = folder / PLAN
    if not path.is_file():
        return
    before = files.read_json(path)
    if odd := [name for name in plan if before.get(name) != plan[name]]:
        raise AptError(
            f"{folder} holds a trial with another {odd[0].replace('_', ' ')}. Write another --trial.output, or delete "
            "that folder."
        )
