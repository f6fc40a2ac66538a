"""Which runs there are, which are done, and who does which: one small file per result, so that work can stop anywhere.

    <out>/results/<setting>--<arm>--s<seed>--<budget>--<digest>.json

The digest covers everything that decides the result, so an edited arm is a new job and old results are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from apt_compare import table
from apt_compare.spec import Arm, Setting, content, digest
from apt_compare.spec_files import load_all
from apt_plugin import files
from apt_plugin.cache import claims
from apt_plugin.errors import AptError, choose

VERSION = 1  # of what a run does: raise it when results of equal specifications would differ


@dataclass(frozen=True)
class Job:
    """One run."""

    setting: Setting
    arm: Arm
    seed: int
    budget: str
    rate: float

    @property
    def key(self) -> str:
        told = digest([VERSION, content(self.setting), content(self.arm), self.rate])
        return f"{self.setting.name}--{self.arm.name}--s{self.seed}--{self.budget}--{told}"


@dataclass(frozen=True)
class Configs:
    """The arms, settings and tuned rates of a folder."""

    folder: Path
    arms: Mapping[str, Arm]
    settings: Mapping[str, Setting]
    rates: Mapping[str, Mapping[str, Any]]
    questions: Sequence[Mapping[str, Any]]

    def rate(self, setting: Setting, arm: Arm) -> float:
        """An arm's own, else the tuned one of the setting (or of the setting "*"), else the setting's default."""
        if arm.lr:
            return arm.lr
        for name in (setting.name, "*"):
            told = self.rates.get(name, {}).get(arm.rate_like or arm.name)
            if told is not None:
                return float(told)
        return setting.lr_expert if arm.vlm == "frozen" else setting.lr_full


def shipped() -> Path:
    """Our own arms, settings and questions: inside the installed package, or beside `src` in a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def read(folder: Path) -> Configs:
    """`arms/*.yaml`, `settings/*.yaml`, and where they are there `rates.yaml` and `questions.yaml`.

    Raises:
        AptError: a file that cannot be read, an arm that names an unknown one.
    """
    arms, settings = load_all(Arm, folder / "arms"), load_all(Setting, folder / "settings")
    for arm in arms.values():
        if arm.rate_like:
            choose(f"{arm.name}: rate_like", arm.rate_like, arms)
    for setting in settings.values():
        for name in setting.arms:
            choose(f"{setting.name}: arms", name, arms)
    rates = yaml_of(folder / "rates.yaml") or {}
    return Configs(folder, arms, settings, rates, yaml_of(folder / "questions.yaml") or [])


def yaml_of(path: Path) -> Any:
    """What a file holds; None where there is none."""
    try:
        return yaml.safe_load(path.read_text()) if path.is_file() else None
    except yaml.YAMLError as error:
        raise AptError(f"{path} is not valid YAML: {error}") from error


def jobs(
    configs: Configs,
    settings: Iterable[str] = (),
    arms: Iterable[str] = (),
    seeds: int = 0,
    budgets: Iterable[str] = (),
) -> list[Job]:
    """Every run that was asked for, seed by seed, so that what is there after an hour is a comparison already.

    Args:
        settings, arms, budgets: names; empty: all of the folder, all of the setting. seeds: 0 takes the setting's.
    """
    settings, arms, budgets = list(settings), list(arms), list(budgets)
    chosen = [configs.settings[choose("setting", name, configs.settings)] for name in settings or configs.settings]
    for name in arms:
        choose("arm", name, configs.arms)
    out = []
    for setting in chosen:
        own = [name for name in setting.arms or configs.arms if not arms or name in arms]
        for seed in range(seeds or setting.seeds):
            for budget in budgets or setting.budgets:
                for name in own:
                    arm = configs.arms[name]
                    out.append(Job(setting, arm, seed, budget, configs.rate(setting, arm)))
    return out


class Keyed(Protocol):
    """Whatever is done once: its key is its file's name."""

    @property
    def key(self) -> str: ...


class Shelf:
    """The results of a folder."""

    def __init__(self, out: Path):
        self.out, self.folder = out, out / "results"

    def path(self, job: Keyed) -> Path:
        return self.folder / f"{job.key}.json"

    def failure(self, job: Keyed) -> Path:
        return self.out / "failed" / f"{job.key}.txt"

    def settled(self, job: Keyed) -> bool:
        return self.path(job).is_file() or self.failure(job).is_file()

    def claim(self, job: Keyed) -> claims.Claim | None:
        """None when it is settled or a living process works on it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.settled(job):
            return None
        claim = claims.take_path(self.folder / f".{job.key}.lock")
        if claim is not None and self.settled(job):  # finished between the look and the claim
            claim.release()
            return None
        return claim

    def keep(self, job: Keyed, result: Mapping[str, Any]) -> None:
        """One line of JSON, whole or not at all."""
        files.write_bytes(self.path(job), line({**result, "key": job.key}))


def line(result: Mapping[str, Any]) -> bytes:
    """A result as a line of JSON."""
    return (json.dumps(_short(result), sort_keys=True, allow_nan=False) + "\n").encode()


def _short(value: Any) -> Any:
    """Floats to six digits, as the table of results holds them."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value


def results(path: Path) -> list[dict[str, Any]]:
    """Everything kept: a folder of runs (`<out>`, or its `results`), or a table that `gather` wrote.

    Raises:
        AptError: nothing there, a result that is no JSON, a table that cannot be read.
    """
    if path.is_file():
        found = table.read(path.read_text())
    else:
        folder = path / "results" if (path / "results").is_dir() else path
        try:
            found = [json.loads(each.read_text()) for each in sorted(folder.glob("*.json"))]
        except json.JSONDecodeError as error:
            raise AptError(f"{path} holds a result that is no JSON ({error}): remove it and run again.") from error
    if not found:
        raise AptError(f"No results in {path}. Run some first: apt-compare run --output DIR.")
    return sorted(found, key=lambda each: each["key"])


def gather(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Many results as one table, in the order of their keys."""
    files.write_bytes(path, table.write(found))
