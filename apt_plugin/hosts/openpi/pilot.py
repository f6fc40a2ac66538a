"""A training command of openpi, run briefly on some of its episodes; see `apt_plugin.trial.pilot.Pilot`.

The host reads every episode of a data set, so the episodes to train on are a data set of their own. Imports no host but
in `episodes` and `facts`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.names import PARAMS, WEIGHTS
from apt_plugin.hosts.openpi.programs import Program
from apt_plugin.hosts.openpi.schedule import LENGTHS, STEPS
from apt_plugin.listen import some_episodes
from apt_plugin.run.budget import scaled
from apt_plugin.run.flags import Flags
from apt_plugin.run.staged import call
from apt_plugin.trial.pilot import FIRST_FRAMES, Episodes, seen, shortened


class OpenpiPilot:
    """One command."""

    steps_flag = STEPS
    expert_only: Mapping[str, str] = MappingProxyType({})  # a config's freeze_filter, which no flag sets

    def __init__(self, program: Program, command: Sequence[str]):
        if not program.trains:
            raise AptError(f"A trial is for training, and {program.script.name} does not train.")
        self._before = list(command[: len(command) - len(program.flags)])
        self.program, self.flags = program, Flags.read(program.flags, switches=True)
        if self.flags.get("resume") == "true":
            raise AptError("A trial begins with the base: drop --resume. Started again, it goes on by itself.")
        if model := [flag.name for flag in self.flags.given if flag.name.startswith("model.")]:
            raise AptError(
                f"--{model[0]} is not in the config, and a stock checkpoint of openpi is opened by its config's name: "
                "write a config of your own with it, and name that."
            )

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the host makes of the flags: see `facts`."""
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "pilot.json"
            job = {"do": "pilot", "flags": self.program.flags, "answer": str(answer)}
            if status := call(self.program.child(job, self.program.flags, alone=True)):
                sys.exit(status)  # the host's parser, or a refusal of ours, has said why
            return json.loads(answer.read_text())

    @property
    def steps(self) -> int:
        return self.told["steps"]

    @property
    def asked_of(self) -> tuple[str, Mapping[str, Any]]:
        return self.told["repo_id"], {"config": self.told["name"]}

    @property
    def base(self) -> str:
        return self.told["base"]

    def episodes(self) -> Episodes:
        from apt_plugin.hosts.openpi import preflight, preload
        from apt_plugin.hosts.openpi.listen_data import Questions

        preload()
        config = preflight.parsed("2", self.program.flags)
        questions = Questions(config.data.create(config.assets_dirs, config.model), config.model, "")
        every = questions.episodes
        labels = dict(enumerate(every.text))
        if not any(text.strip() for text in labels.values()):
            return Episodes(labels, np.zeros((0, 1), np.float32), [])
        first = [episode for episode, _ in every.spread(FIRST_FRAMES, 0, first=True)]
        cameras = questions.dataset.meta.camera_keys
        items = (questions.item(episode, 0) for episode in first)
        features = np.stack([seen(np.asarray(item[name], np.float32) for name in cameras) for item in items])
        return Episodes(labels, features, [every.text[episode] for episode in first])

    def only(self, episodes: Sequence[int], folder: Path) -> Mapping[str, str]:
        some_episodes.write(Path(self.told["root"]), episodes, folder)
        # Statistics lie under the name of the data set; they stay those of all episodes
        return {"data.repo-id": str(folder), "data.assets.asset-id": self.told["asset_id"]}

    def whole(self, flags: Mapping[str, str]) -> list[str]:
        return self._command(self.flags.with_(flags))

    def short(
        self, flags: Mapping[str, str], ours: Sequence[str], run: Path, steps: int, seed: int, points: int
    ) -> list[str]:
        schedule = {name: str(scaled(value, steps, self.steps)) for name, value in self.told["lengths"].items()}
        changed = {
            **schedule, STEPS: str(steps), **dict.fromkeys(("save-interval", "keep-period"), str(-(-steps // points))),
            "checkpoint-base-dir": str(run),
            "wandb-enabled": "false", "seed": str(self.told["seed"] + seed), **flags,
        }  # fmt: skip
        made = self._command(self.flags.without("overwrite", "resume").with_(changed))
        return [*made, *ours, *shortened(ours, "openpi", (STEPS, *LENGTHS), steps, self.steps)]

    def _command(self, flags: Flags) -> list[str]:
        return [*self._before, *flags.tokens()]

    def policies(self, run: Path) -> list[tuple[int, Path]]:
        """Of Stage 2, or of the host's own training."""
        for ending in ("_apt2", ""):
            saved = files.numbered(run / f"{self.told['name']}{ending}" / self.told["exp_name"])
            if whole := [(n, step) for n, step in saved if any((step / name).exists() for name in (PARAMS, WEIGHTS))]:
                return whole
        return []


def facts(flags: Sequence[str], answer: Path, torch: bool) -> None:
    """In a process of the host: what its parser makes of the flags; `torch`: of its PyTorch trainer's.

    Raises:
        AptError: a data set of which episodes cannot be left out.
    """
    from openpi.training import data_loader

    from apt_plugin.hosts.openpi import loading, preflight

    config = preflight.parsed("2", flags)
    data = config.data.create(config.assets_dirs, config.model)
    if data.rlds_data_dir is not None or not data.repo_id or data.repo_id == "fake":
        raise AptError(
            f"A trial leaves episodes out of a LeRobot data set, and {config.name} reads "
            f"{'RLDS' if data.rlds_data_dir is not None else data.repo_id or 'none'}. Name a config that reads one."
        )
    found = {"steps": config.num_train_steps, "name": config.name, "exp_name": config.exp_name, "seed": config.seed}
    found |= {"repo_id": data.repo_id, "asset_id": data.asset_id or data.repo_id}
    found["base"] = str(loading.base_of(config, torch) or "")
    found["root"] = str(data_loader.lerobot_dataset.LeRobotDatasetMetadata(data.repo_id).root)
    found["lengths"] = {
        flag: int(getattr(config.lr_schedule, name))
        for flag, name in LENGTHS.items()
        if hasattr(config.lr_schedule, name)
    }
    files.write_json(answer, found)
