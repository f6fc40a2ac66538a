"""Data sets of openpi for `apt_plugin.listen.labels`: episodes in blocks, labels in a copy."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.listen import OpenpiListener
from apt_plugin.hosts.openpi.listen_data import Questions
from apt_plugin.hosts.openpi.listen_open import data_of, read
from apt_plugin.listen import labelled_copy
from apt_plugin.listen.hosted import DataSet
from apt_plugin.listen.labels import Labels


def open_sets(
    policy: str, labelled: str, unlabelled: str, config: str = "", device: str = "", **roots: str
) -> tuple[DataSet, DataSet]:
    """The labelled and the unlabelled set under one policy.

    Raises:
        AptError: see `listen_open.read` and `listen_data.Questions`; a folder under lerobot's flags.
    """
    if any(roots.values()):
        raise AptError("--root and --labelled-root are lerobot's; give openpi a data set by its folder's full path.")
    source = read(policy, config, device)
    data = data_of(source)

    def under_policy(name: str) -> DataSet:
        questions = Questions(data, source.model, name)
        return DataSet(questions, questions.episodes, lambda chosen: OpenpiListener(source, questions, chosen=chosen))

    return under_policy(labelled), under_policy(unlabelled)


def write_labels(labels: Labels, unlabelled: DataSet, folder: Path) -> str:
    """See `labelled_copy.beside`."""
    return labelled_copy.beside(Path(unlabelled.data.dataset.meta.root), labels, folder, "--data.repo-id=")
