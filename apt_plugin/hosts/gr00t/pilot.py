"""A fine-tuning command of Isaac GR00T, run briefly on some of its episodes; see `apt_plugin.trial.pilot.Pilot`.

The host reads every episode of a folder, so the episodes to train on are a folder of their own. Imports the host in
`episodes` alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import rules
from apt_plugin.hosts.gr00t.names import PROCESSORS, TRAIN
from apt_plugin.hosts.gr00t.programs import Program, Settings, switched
from apt_plugin.listen import hosted, some_episodes
from apt_plugin.trial.pilot import FIRST_FRAMES, Episodes, seen, shortened

MODALITY = "meta/modality.json"
STATISTICS = "meta/stats.json"


class GrootPilot:
    """One command."""

    steps_flag = "max-steps"
    expert_only: Mapping[str, str] = MappingProxyType(dict.fromkeys(rules.SWITCHES, "false"))

    def __init__(self, program: Program, command: Sequence[str]):
        if program.module != TRAIN:
            raise AptError(f"A trial is for {TRAIN}, whose flags name one data set; this is {program.module}.")
        self._before = list(command[: len(command) - len(program.flags)])
        self.program, self.flags = program, switched(program.flags)
        self.settings = Settings(program.module, program.flags)
        if self.settings.resumes():
            raise AptError(
                "A trial begins with the base: drop --resume-from-checkpoint. Started again, it goes on by itself."
            )
        written = self.flags.get("dataset-path") or ""
        if not written or os.pathsep in written:
            raise AptError(f"A trial takes one data set, and --dataset-path is {written!r}: name one folder.")
        self.data = Path(written)

    @property
    def steps(self) -> int:
        return self.settings.steps()

    @property
    def asked_of(self) -> tuple[str, Mapping[str, Any]]:
        _, tag = self.settings.data()
        return str(self.data.absolute()), {"config": tag}

    @property
    def base(self) -> str:
        return self.settings.get("base") or ""

    def _check(self) -> None:
        for name, why in (
            ("meta/info.json", "it is no LeRobot data set"),
            (MODALITY, "the host reads from it what a frame holds"),
            (STATISTICS, "the host would write it at the first training, and a trial writes nothing of yours. Run the "
             "host's gr00t/data/stats.py on it once"),
        ):  # fmt: skip
            if not (self.data / name).is_file():
                raise AptError(f"{self.data} has no {name}: {why}.")

    def episodes(self) -> Episodes:
        from gr00t.data.dataset.lerobot_episode_loader import LeRobotEpisodeLoader
        from gr00t.data.types import ModalityConfig

        from apt_plugin.hosts.gr00t.listen import labels

        self._check()
        known = files.read_json(self.data / MODALITY)
        parts = {"video": list(known.get("video", {}))}
        if spoken := self._language(known):
            parts["language"] = [spoken]
        loader = LeRobotEpisodeLoader(
            self.data, {kind: ModalityConfig(delta_indices=[0], modality_keys=keys) for kind, keys in parts.items()}
        )
        said = labels(loader, spoken) if spoken else [""] * len(loader)
        every = hosted.Episodes(str(self.data), said, loader.episode_lengths)
        if not every.tasks:
            return Episodes(dict(enumerate(said)), np.zeros((0, 1), np.float32), [])
        first = [episode for episode, _ in every.spread(FIRST_FRAMES, 0, first=True)]
        pixels = []
        for episode in first:
            pictures = loader._load_video_data(loader.episodes_metadata[episode]["episode_index"], np.array([0]))
            pixels.append(seen(np.moveaxis(picture, -1, -3) for picture in pictures.values()))
        return Episodes(dict(enumerate(said)), np.stack(pixels), [said[episode] for episode in first])

    def _language(self, known: Mapping[str, Any]) -> str:
        """The key of a frame's instruction: the embodiment's, where the host has it, else the first of the data."""
        from gr00t.configs.data.embodiment_configs import MODALITY_CONFIGS
        from gr00t.data.embodiment_tags import EmbodimentTag

        here = [f"annotation.{name}" for name in known.get("annotation", {})]
        tag = EmbodimentTag.resolve(self.settings.data()[1]).value
        wanted = MODALITY_CONFIGS[tag]["language"].modality_keys if tag in MODALITY_CONFIGS else []
        return next((key for key in wanted if key in here), here[0] if here else "")

    def only(self, episodes: Sequence[int], folder: Path) -> Mapping[str, str]:
        self._check()
        return {"dataset-path": str(some_episodes.write(self.data, episodes, folder))}

    def whole(self, flags: Mapping[str, str]) -> list[str]:
        return [*self._before, *self.flags.with_(flags).tokens()]

    def short(
        self, flags: Mapping[str, str], ours: Sequence[str], run: Path, steps: int, seed: int, points: int
    ) -> list[str]:
        if seed:
            raise AptError("This program has no flag for a seed, so its runs would be alike: drop --trial.seeds.")
        changed = {
            "max-steps": str(steps), "save-steps": str(-(-steps // points)), "output-dir": str(run),
            "use-wandb": "false", **flags,
        }  # fmt: skip
        made = self.flags.without("experiment-name").with_(changed).tokens()
        started = [*self.program.before, "-m", self.program.module]  # wherever it is started
        return [*started, *made, *ours, *shortened(ours, "gr00t", ("max-steps", "warmup-steps"), steps, self.steps)]

    def policies(self, run: Path) -> list[tuple[int, Path]]:
        for stage in ("stage2", ""):
            saved = files.numbered(run / stage, "checkpoint-")
            if whole := [(n, p) for n, p in saved if (p / PROCESSORS[0]).is_file()]:
                return whole
        return []
