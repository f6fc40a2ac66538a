"""Data sets of Isaac GR00T for `apt_plugin.listen.labels`: episodes in blocks, labels in a copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import data
from apt_plugin.hosts.gr00t.listen import Gr00tListener, episodes_of
from apt_plugin.hosts.gr00t.opening import Opened, check_data, open_data, open_policy
from apt_plugin.listen import labelled_copy
from apt_plugin.listen.labels import Labels, spread


class Gr00tEpisodes:
    """All episodes of one data set under one policy."""

    def __init__(self, opened: Opened, folder: str):
        self.opened, self.loader = opened, open_data(opened, Path(folder))
        self.episodes = episodes_of(self.loader)
        self.task = self.episodes.text

    def listener(self, episodes: Sequence[int], frames: int) -> Gr00tListener:
        chosen = spread(episodes, self.episodes.room or (), frames)
        return Gr00tListener(self.opened, self.loader, chosen=chosen, episodes=self.episodes)


def open_sets(
    policy: str, labelled: str, unlabelled: str, config: str = "", device: str = "", **roots: str
) -> tuple[Gr00tEpisodes, Gr00tEpisodes]:
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
    return Gr00tEpisodes(opened, labelled), Gr00tEpisodes(opened, unlabelled)


def write_labels(labels: Labels, unlabelled: Gr00tEpisodes, folder: Path) -> str:
    """A labelled copy of the data set; what to type, in words."""
    out = (folder / labelled_copy.FOLDER).absolute()
    key = unlabelled.loader.modality_configs["language"].modality_keys[0]
    labelled_copy.write(Path(unlabelled.loader.dataset_path), labels, out, language=key)
    return f"{out} is a copy with these instructions. Train on it with --dataset-path {out}"
