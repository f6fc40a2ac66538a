"""A `lerobot-train` command, run briefly on some of its episodes; see `apt_plugin.trial.pilot.Pilot`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.checkpoints import MODEL
from apt_plugin.hosts.lerobot.families import FAMILIES, POLICIES, find
from apt_plugin.hosts.lerobot.flags import check_here, source_flags
from apt_plugin.hosts.lerobot.names import CONFIG
from apt_plugin.hosts.lerobot.programs import TRAIN, Program
from apt_plugin.hosts.lerobot.schedule import STEPS, lengths
from apt_plugin.hub import local_folder
from apt_plugin.listen.sampling import spread_over_tasks
from apt_plugin.run.budget import count, scaled
from apt_plugin.run.flags import Flags
from apt_plugin.stages import RECORD
from apt_plugin.trial.pilot import FIRST_FRAMES, Episodes, seen, shortened

SEED = 1000  # the host's own
EPISODES = "dataset.episodes"
OTHER_DATA = "--apt.stage1.dataset."
LONGEST = 120_000  # letters of one argument: Linux takes 131,072 bytes
# Of a run that nobody keeps: nothing is published or tracked, and only the last step is saved.
QUIETLY = {
    "wandb.enable": "false", "policy.push_to_hub": "false", "save_checkpoint_to_hub": "false",
    "save_checkpoint": "true",
}  # fmt: skip


class LerobotPilot:
    """One command."""

    steps_flag = "steps"

    def __init__(self, program: Program, command: Sequence[str]):
        if program.name != TRAIN:
            raise AptError(f"A trial is for training, and {program.name} is not: write it in front of {TRAIN}.")
        self.flags = Flags.read(program.flags)
        self._before = list(command[: len(command) - len(program.flags)])
        if self.flags.get("config_path") is not None:
            raise AptError(
                "A trial reads the command's own flags. Write them out in place of --config_path; a trial begins with "
                "the base, and goes on by itself when it is started again."
            )
        if self.flags.get("resume") == "true":
            raise AptError("A trial begins with the base: drop --resume. Started again, it goes on by itself.")
        path = self.flags.get("policy.path")
        ours = path is not None and (local_folder(path) / RECORD).is_file()
        if ours or self.flags.get("policy.type") in POLICIES.values():
            raise AptError(
                "A trial begins with a plain policy, and this is one of the recipe's. Name its base instead."
            )
        check_here(self.flags)
        if self.flags.get("dataset.streaming") == "true":
            raise AptError(
                "lerobot's streamed data set trains on every episode, whatever --dataset.episodes says, so nothing "
                "would be held out. Drop --dataset.streaming for the trial."
            )
        self.steps = count("steps", self.flags.get("steps") or STEPS)

    @property
    def _whole(self) -> Flags:
        """With the settings of a plain checkpoint that the command names."""
        return source_flags(self.flags)

    @property
    def expert_only(self) -> Mapping[str, str]:
        return (find(self._whole.get("policy.type")) or FAMILIES[0]).expert_only

    @property
    def asked_of(self) -> tuple[str, Mapping[str, Any]]:
        return self._data, {name: value for name, value in self._where.items() if value is not None}

    @property
    def _where(self) -> dict[str, str | None]:
        return {name: self.flags.get(f"dataset.{name}") for name in ("root", "revision")}

    @property
    def _data(self) -> str:
        name = self.flags.get("dataset.repo_id")
        if name is None:
            raise AptError("Which data? Write --dataset.repo_id=me/my-robot.")
        return name

    @property
    def base(self) -> str:
        return self.flags.get("policy.path") or self.flags.get("policy.pretrained_path") or ""

    def episodes(self) -> Episodes:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        try:
            root, revision = self._where.values()
            dataset: Any = LeRobotDataset(self._data, root=root, revision=revision, video_backend="pyav")
        except Exception as error:
            raise AptError(f"{self._data} cannot be read as a LeRobot data set: {error}") from error
        table = dataset.meta.episodes
        said = [str(row["tasks"][0]) if len(row["tasks"]) else "" for row in table.select_columns(["tasks"])]
        mine = self._mine() if self.flags.get(EPISODES) is not None else range(len(said))
        if odd := [episode for episode in mine if not 0 <= episode < len(said)]:
            raise AptError(f"--{EPISODES} names {odd[0]}, and {self._data} has the episodes 0 to {len(said) - 1}.")
        labelled = [episode for episode in mine if said[episode].strip()]
        first = (
            spread_over_tasks([said[e] for e in labelled], None, min(FIRST_FRAMES, len(labelled)), 0)
            if labelled
            else []
        )
        rows = [labelled[place] for place, _ in first]
        start = table["dataset_from_index"]
        firsts = (dataset[int(start[episode])] for episode in rows)
        pixels = [seen(frame[name].float().numpy() for name in dataset.meta.camera_keys) for frame in firsts]
        features = np.stack(pixels) if pixels else np.zeros((0, 1), np.float32)
        return Episodes({episode: said[episode] for episode in mine}, features, [said[episode] for episode in rows])

    def _mine(self) -> list[int]:
        """Of a command that names its episodes."""
        try:
            return [int(episode) for episode in json.loads(self.flags.get(EPISODES) or "[]")]
        except (ValueError, TypeError) as error:
            raise AptError(f"--{EPISODES} is {self.flags.get(EPISODES)!r}; write a list such as [0,1,2].") from error

    def whole(self, flags: Mapping[str, str]) -> list[str]:
        return [*self._before, *self.flags.with_(flags).tokens()]

    def only(self, episodes: Sequence[int], folder: Path) -> Mapping[str, str]:
        listed = json.dumps(list(episodes), separators=(",", ":"))
        if len(listed) > LONGEST:
            raise AptError(
                f"{len(episodes)} episodes are too many for one command line. Name some of them for the trial, such as "
                f"--{EPISODES}=[0,1,2]."
            )
        return {EPISODES: listed}

    def short(
        self, flags: Mapping[str, str], ours: Sequence[str], run: Path, steps: int, seed: int, points: int
    ) -> list[str]:
        schedule = {name: str(scaled(value, steps, self.steps)) for name, value in lengths(self._whole).items()}
        changed = {
            **QUIETLY, **schedule, "output_dir": str(run), "steps": str(steps), "save_freq": str(-(-steps // points)),
            "seed": str(self._seed + seed), **flags,
        }  # fmt: skip
        if self.flags.get("env.type") is not None:
            changed["env_eval_freq"] = "0"  # no rollouts: a trial asks on frames
        names = ("steps", *lengths(self._whole))
        ours = [*ours, *shortened(ours, "lerobot", names, steps, self.steps)]
        if any(flag.startswith(OTHER_DATA) for flag in ours):  # Stage 1 reads other data: the list is not about those
            own = any(flag.startswith(f"{OTHER_DATA}episodes") for flag in ours)
            ours += [] if own else [f"{OTHER_DATA}episodes=null"]
        return [*self._before, *self.flags.without("job_name").with_(changed).tokens(), *ours]

    @property
    def _seed(self) -> int:
        written = self.flags.get("seed")
        if written in (None, "", "null"):
            return SEED
        try:
            return int(written)
        except ValueError as error:
            raise AptError(f"--seed is {written!r}; write a whole number.") from error

    def policies(self, run: Path) -> list[tuple[int, Path]]:
        for stage in ("stage2", ""):
            saved = files.numbered(run / stage / "checkpoints")
            if whole := [(n, p / MODEL) for n, p in saved if (p / MODEL / CONFIG).is_file()]:
                return whole
        return []
