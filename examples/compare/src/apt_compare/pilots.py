"""Which runs a calibration of `apt-plugin trial` takes: for each case every way's full run, and its pilots.

A case is a setting under one seed. Cases, ways and the two halves stand in `calibration.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apt_compare.plan import Configs, Job, yaml_of
from apt_compare.spec import PILOTS
from apt_plugin.errors import AptError, choose

FULL = "steps"  # the budget of a full run
HALVES = ("choose", "report")


@dataclass(frozen=True)
class Case:
    """A setting under a seed; half: whether it is one to choose a rule by, or one to report it on; without: ways that
    are not run there."""

    setting: str
    seed: int
    half: str
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.setting} {self.seed}"


@dataclass(frozen=True)
class Calibration:
    """`calibration.yaml`. ways: name -> arm, the simplest first; pilots: budgets; cases: in the order of the work."""

    ways: Mapping[str, str]
    pilots: Sequence[str]
    cases: Sequence[Case]

    def ways_of(self, case: Case) -> dict[str, str]:
        """Way -> arm, of those that are run there."""
        return {way: arm for way, arm in self.ways.items() if way not in case.without}


def read(configs: Configs) -> Calibration:
    """`calibration.yaml` beside the arms.

    Raises:
        AptError: a name that the configs do not have, or a case that stands there twice.
    """
    told: Any = yaml_of(configs.folder / "calibration.yaml")
    if told is None:
        raise AptError(f"{configs.folder} has no calibration.yaml; see ours in the examples.")
    for arm in told["ways"].values():
        choose("calibration: ways", arm, configs.arms)
    for pilot in told["pilots"]:
        choose("calibration: pilots", pilot, PILOTS)
    cases = [Case(**{**case, "without": tuple(case.get("without", ()))}) for case in told["cases"]]
    for case in cases:
        choose("calibration: setting", case.setting, configs.settings)
        choose(f"calibration: half of {case.name}", case.half, HALVES)
        for way in case.without:
            choose(f"calibration: without of {case.name}", way, told["ways"])
    if len({case.name for case in cases}) < len(cases):
        raise AptError("calibration: a case stands there twice; each setting and seed is one case.")
    return Calibration(told["ways"], tuple(told["pilots"]), cases)


def jobs(told: Calibration, configs: Configs) -> list[Job]:
    """Case by case: the pilots, which are short, then the full runs; the longest pilots when all that is done."""
    *short, longest = told.pilots
    out = []
    for budgets in ((*short, FULL), (longest,)):
        for case in told.cases:
            setting = configs.settings[case.setting]
            for budget in budgets:
                for name in told.ways_of(case).values():
                    arm = configs.arms[name]
                    out.append(Job(setting, arm, case.seed, budget, configs.rate(setting, arm)))
    return out
