"""Data sets of Isaac GR00T for `apt_plugin.listen.labels`: episodes in blocks, labels in a copy."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import data
from apt_plugin.hosts.gr00t.listen import Gr00tListener, episodes_of
from apt_plugin.hosts.gr00t.opening import check_data, open_data, open_policy
from apt_plugin.listen import labelled_copy
from apt_plugin.listen.hosted import DataSet
from apt_plugin.listen.labels import Labels


def open_sets(
    policy: str, labelled: str, unlabelled: str, config: str = "", device: str = "", **roots: str
) -> tuple[DataSet, DataSet]:
    """The labelled and the unlabelled set under one policy.

    Raises:
        AptError: see `opening`; a folder under lerobot's flags.
    """
    if any(roots.values()):
        raise AptError("--root and --labelled-root are lerobot's; give Isaac GR00T a data set by its folder.")
    check_data(Path(labelled), "--labelled")
    check_data(Path(unlabelled), "--unlabelled")
    data.install(unlabelled=True)  # a set without annotation has the empty instruction
    opened = open_policy(policy, config, device)

    def under_policy(folder: str) -> DataSet:
        loader = open_data(opened, Path(folder))
        episodes = episodes_of(loader)
        return DataSet(loader, episodes, lambda chosen: Gr00tListener(opened, loader, chosen=chosen, episodes=episodes))

    return under_policy(labelled), under_policy(unlabelled)


def write_labels(labels: Labels, unlabelled: DataSet, folder: Path) -> str:
    """See `labelled_copy.beside`."""
    key = unlabelled.data.modality_configs["language"].modality_keys[0]
    return labelled_copy.beside(Path(unlabelled.data.dataset_path), labels, folder, "--dataset-path ", language=key)
