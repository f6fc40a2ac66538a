"""Data sets of openpi for `apt_plugin.listen.labels`: episodes in blocks, labels in a copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.listen import OpenpiListener
from apt_plugin.hosts.openpi.listen_data import Questions
from apt_plugin.hosts.openpi.listen_open import Source, data_of, read
from apt_plugin.listen import labelled_copy
from apt_plugin.listen.labels import Labels, spread


class OpenpiEpisodes:
    """All episodes of one data set under one policy."""

    def __init__(self, source: Source, questions: Questions):
        self.source, self.questions = source, questions
        self.task = questions.episodes.text

    def listener(self, episodes: Sequence[int], frames: int) -> OpenpiListener:
        chosen = spread(episodes, self.questions.episodes.length, frames)
        return OpenpiListener(self.source, self.questions, chosen=chosen)


def open_sets(
    policy: str, labelled: str, unlabelled: str, config: str = "", device: str = "", **roots: str
) -> tuple[OpenpiEpisodes, OpenpiEpisodes]:
    """The labelled and the unlabelled set under one policy.

    Raises:
        AptError: see `listen_open.read` and `listen_data.Questions`; a folder under lerobot's flags.
    """
    if any(roots.values()):
        raise AptError("--root and --labelled-root are lerobot's; give openpi a data set by its folder's full path.")
    source = read(policy, config, device)
    data = data_of(source)
    known, unknown = (OpenpiEpisodes(source, Questions(data, source.model, name))
                      for name in (labelled, unlabelled))  # fmt: skip
    return known, unknown


def write_labels(labels: Labels, unlabelled: OpenpiEpisodes, folder: Path) -> str:
    """A labelled copy of the data set; what to type, in words."""
    out = (folder / labelled_copy.FOLDER).absolute()
    labelled_copy.write(Path(unlabelled.questions.dataset.meta.root), labels, out)
    return f"{out} is a copy with these instructions. Train on it with --data.repo-id={out}"
