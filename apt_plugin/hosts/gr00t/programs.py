"""Isaac GR00T's programs in a command line: where they stand, what their flags are called, what a flag's value is.

Read without importing the host.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.names import CHILD, TRAIN, TRAIN_MIXTURE
from apt_plugin.run.budget import count
from apt_plugin.run.flags import Flags


@dataclass(frozen=True)
class Words:
    """What a training program of the host calls its settings."""

    prefix: str  # in front of a setting's name
    base: str  # the checkpoint to start from
    steps: str  # how many, where nobody says


TRAINING = {
    TRAIN: Words("", "base-model-path", "10000"),
    TRAIN_MIXTURE: Words("training.", "start-from-checkpoint", "30000"),
}


@dataclass(frozen=True)
class Program:
    """Where the host's program stands in a command line."""

    before: list[str]  # torchrun ..., or nothing
    module: str
    flags: list[str]

    @property
    def trains(self) -> bool:
        return self.module in TRAINING

    def child(self, flags: Sequence[str]) -> list[str]:
        """The process that registers our model and then runs the host's own script."""
        launcher = self.before or [sys.executable]
        if launcher[0].startswith("-"):
            launcher = [sys.executable, *launcher]
        return [*launcher, "-m", CHILD, self.module, *flags]


@dataclass(frozen=True)
class Settings:
    """The settings of one training command: its flags, and the config file that they may name (launch_train's)."""

    module: str
    flags: Sequence[str]

    @property
    def words(self) -> Words:
        return TRAINING[self.module]

    def flag(self, name: str) -> str:
        """A setting's flag; `base` is the checkpoint to start from."""
        return self.words.prefix + (self.words.base if name == "base" else name)

    def get(self, name: str) -> str | None:
        """A training setting as text, `base` among them; None where the command leaves it to the host."""
        found = switched(self.flags).get(self.flag(name))
        if found is None and self.words.prefix:
            key = self.flag(name).removeprefix(self.words.prefix).replace("-", "_")
            value = (self._file.get("training") or {}).get(key)
            found = None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        return found

    def output(self) -> Path:
        return Path(self.get("output-dir") or "outputs")

    def resumes(self) -> bool:
        return self.get("resume-from-checkpoint") == "true"

    def steps(self) -> int:
        return count(self.flag("max-steps"), self.get("max-steps") or self.words.steps)

    def switch(self, name: str) -> str:
        """A model setting's flag."""
        return f"model.{name}" if self.words.prefix else name

    def switched_on(self, name: str) -> bool:
        """Whether a switch of the model is on, by its flag or the config file."""
        found = switched(self.flags).get(self.switch(name))
        if found is None and self.words.prefix:
            return bool((self._file.get("model") or {}).get(name.replace("-", "_")))
        return found == "true"

    def own_file(self, name: str) -> str | None:
        """A training setting of the config file alone."""
        value = (self._file.get("training") or {}).get(name.replace("-", "_"))
        return None if value is None else str(value)

    def data(self) -> tuple[str, str]:
        """(folder, embodiment tag) of the first data set; empty where the command leaves them to the host."""
        if self.words.prefix:
            first = next(iter((self._file.get("data") or {}).get("datasets") or []), {})
            return str(next(iter(first.get("dataset_paths") or []), "")), str(first.get("embodiment_tag") or "")
        paths = switched(self.flags).get("dataset-path") or ""
        return paths.split(os.pathsep)[0], switched(self.flags).get("embodiment-tag") or ""

    @cached_property
    def _file(self) -> dict[str, Any]:
        named = switched(self.flags).get("load-config-path")
        if named is None:
            return {}
        try:
            value = yaml.safe_load(Path(named).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise AptError(f"--load-config-path {named}: {str(error).splitlines()[0]}") from error
        if not isinstance(value, dict):
            raise AptError(f"--load-config-path {named} holds a {type(value).__name__}; the host wants a mapping.")
        return value


def switched(tokens: Sequence[str]) -> Flags:
    """The host's flags: tyro's dialect."""
    return Flags.read(tokens, switches=True)


def is_program(token: str) -> bool:
    """Whether a word of a command line may be one of the host's programs."""
    return "gr00t/" in token or "gr00t." in token


def find_program(command: Sequence[str]) -> Program | None:
    """The gr00t program in a command line, as a file or behind -m; None when there is none."""
    for index, token in enumerate(command):
        if token.startswith("-"):
            continue
        path = Path(token)
        if path.suffix == ".py" and "gr00t" in path.parts:
            parts = path.with_suffix("").parts
            module = ".".join(parts[len(parts) - 1 - parts[::-1].index("gr00t") :])
            return Program(_without_python(command[:index]), module, list(command[index + 1 :]))
        if token.startswith("gr00t.") and index and command[index - 1] in ("-m", "--module"):
            return Program(_without_python(command[: index - 1]), token, list(command[index + 1 :]))
    return None


def _without_python(tokens: Sequence[str]) -> list[str]:
    return [token for token in tokens if not Path(token).name.startswith("python")]
