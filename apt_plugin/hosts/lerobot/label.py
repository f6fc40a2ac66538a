"""LeRobot data sets for `apt_plugin.listen.labels`: episodes opened in blocks, labels as the host's own edit.

lerobot changes the tasks of a data set itself (`lerobot-edit-dataset`, operation modify_tasks), in place; what is
written here is the file that it takes, so nothing of its format is known on our side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from apt_plugin import files
from apt_plugin.hosts.lerobot.listen import LerobotListener, episodes_of
from apt_plugin.hosts.lerobot.mixing import fill_tasks
from apt_plugin.hosts.lerobot.opening import make_room, open_dataset, open_policy
from apt_plugin.listen.hosted import DataSet
from apt_plugin.listen.labels import Labels

EDIT = "edit.yaml"


def open_sets(
    policy: str, labelled: str, unlabelled: str, labelled_root: str = "", root: str = "", device: str = ""
) -> tuple[DataSet, DataSet]:
    """The labelled and the unlabelled set under one policy.

    Raises:
        AptError: see `opening`.
    """
    opened = open_policy(policy, device)
    sets = [open_dataset(name, where, opened) for name, where in ((labelled, labelled_root), (unlabelled, root))]
    make_room(opened.preprocessor)
    for each in sets:
        fill_tasks(each)

    def under_policy(dataset: Any) -> DataSet:
        episodes = episodes_of(dataset.meta)
        return DataSet(dataset, episodes, lambda chosen: LerobotListener(opened, dataset, chosen=chosen))

    return under_policy(sets[0]), under_policy(sets[1])


def write_edit(labels: Labels, unlabelled: DataSet, folder: Path) -> str:
    """`edit.yaml`; what to type, in words. Episodes without a label get the empty instruction; those that had one
    keep it."""
    tasks = {str(episode): text for episode, text in zip(labels.episode, labels.task, strict=True)}
    edit = {
        "repo_id": unlabelled.data.repo_id,
        "root": str(Path(unlabelled.data.root).absolute()),
        "operation": {"type": "modify_tasks", "episode_tasks": tasks},
    }
    files.write_bytes(folder / EDIT, yaml.safe_dump(edit, sort_keys=False, allow_unicode=True).encode())
    return (
        "The next command changes the data set in place; keep a copy of it:\n"
        f"  lerobot-edit-dataset --config_path={folder / EDIT}"
    )
