"""Frames of an openpi config's own data set, through its own transforms, with the words put in per question.

T action tokens   A action dimensions
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import openpi.transforms as transforms
from openpi.training import data_loader

from apt_plugin.errors import AptError
from apt_plugin.listen.hosted import Episodes


class Questions:
    """Raw frames by index, and what the model gets of a frame under an instruction.

    Raises:
        AptError: no LeRobot data set, no such set.
    """

    def __init__(self, data: Any, model: Any, repo: str):
        repo = repo or data.repo_id or ""
        if data.rlds_data_dir is not None:
            raise AptError(
                "This config reads RLDS, which has no frames by index; name a LeRobot copy's config instead."
            )
        if not repo or repo == "fake":
            raise AptError(f"This config's data set is {repo or 'missing'}: name a LeRobot set with --dataset.")
        self.data = data
        bare = dataclasses.replace(data, repo_id=repo, prompt_from_task=False)
        try:
            self.dataset = data_loader.create_torch_dataset(bare, model.action_horizon, model)
        except (OSError, ValueError) as error:
            raise AptError(
                f"openpi could not open the data set {repo}: {error}. It is looked for in HF_LEROBOT_HOME and then on "
                "the hub; a folder's full path will do."
            ) from error
        episodes = [self.dataset.meta.episodes[index] for index in sorted(self.dataset.meta.episodes)]
        said = [str((row["tasks"] or [""])[0]) for row in episodes]
        self.episodes = Episodes(repo, said, [int(row["length"]) for row in episodes])
        self._start = self.dataset.episode_data_index["from"].numpy()
        self._front = data.repack_transforms.inputs
        self._robot = [
            *data.data_transforms.inputs,
            transforms.Normalize(data.norm_stats, use_quantiles=data.use_quantile_norm),
        ]

    def item(self, episode: int, step: int) -> dict[str, Any]:
        """A raw frame. Copies: some of the host's transforms write into what they get (DeltaActions)."""
        raw = self.dataset[int(self._start[episode] + step)]
        return {name: np.array(value) if hasattr(value, "shape") else value for name, value in raw.items()}

    def row(self, item: dict[str, Any], text: str) -> dict[str, Any]:
        """What the model reads, and `width`, the action dimensions before padding.

        Raises:
            AptError: the config's repack transform asks for a key that the data set lacks.
        """
        frame = {name: np.copy(value) if isinstance(value, np.ndarray) else value for name, value in item.items()}
        frame["prompt"] = text
        try:
            for transform in self._front:
                frame = transform(frame)
        except KeyError as error:
            raise AptError(
                f"The config's repack transform reads {error.args[0]!r}, which {self.episodes.name} lacks; it has "
                f"{', '.join(sorted(item))}."
            ) from error
        frame = {**frame, "prompt": text}  # a repack may leave it out; when acting, the client sends it
        for transform in self._robot:
            frame = transform(frame)
        width = int(np.shape(frame["actions"])[-1])
        for transform in self.data.model_transforms.inputs:
            frame = transform(frame)
        return {**frame, "width": width}

    def valid(self, item: dict[str, Any], length: int) -> np.ndarray:
        """[T] bool, False behind the end of the episode."""
        for key in self.data.action_sequence_keys:
            pad = item.get(f"{key}_is_pad")
            if pad is not None and len(pad) == length:
                return ~np.asarray(pad, bool)
        return np.ones(length, bool)
