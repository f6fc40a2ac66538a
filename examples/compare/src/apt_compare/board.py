"""Results as one asks for them: counts by setting, budget, arm and split; sentences are made from these alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apt_compare.plan import Configs, Job
from apt_compare.spec import Setting, content
from apt_compare.stats import Counts, Estimate, difference, pooled, rate
from apt_plugin.errors import AptError
from apt_plugin.tabletop.world import SPLITS

TRAINED = ("seen", "rare")  # every other split names, shows or asks something that training did not


def guided(arm: str, scale: str) -> str:
    """The name of an arm under another guidance scale at evaluation."""
    return f"{arm} @{scale}"


def current(found: Sequence[Mapping[str, Any]], configs: Configs) -> list[Mapping[str, Any]]:
    """Without the results of arms and settings that have been edited since."""
    kept = []
    for each in found:
        arm, setting = configs.arms.get(each["arm"]), configs.settings.get(each["setting"])
        if arm is not None and setting is not None:
            job = Job(setting, arm, each["seed"], each["budget"], configs.rate(setting, arm))
            if job.key == each["key"]:
                kept.append(each)
    return kept


def shared(found: Sequence[Mapping[str, Any]], configs: Configs) -> list[Mapping[str, Any]]:
    """`found`, and each run once more in settings where it would be the same run and others were run to stand beside.

    Settings that differ in their unlabelled demonstrations alone are one world to an arm that sees none of those: its
    runs agree there to the last bit. Such a copy says `of`, the setting that was run; a run of a setting's own is left.
    """
    there = {(each["setting"], each["budget"], each["arm"], each["seed"]) for each in found}
    ran = {(each["setting"], each["budget"]) for each in found}
    labelled = {name: _labelled_part(setting) for name, setting in configs.settings.items()}
    out = list(found)
    for each in found:
        setting, arm = each["setting"], configs.arms.get(each["arm"])
        if arm is None or arm.sees_unlabelled or setting not in configs.settings:
            continue
        for other, own in configs.settings.items():
            cell = (other, each["budget"], arm.name, each["seed"])
            same = labelled[other] == labelled[setting] and configs.rate(own, arm) == each["rate"]
            if same and cell not in there and cell[:2] in ran and (not own.arms or arm.name in own.arms):
                there.add(cell)
                out.append({**each, "setting": other, "of": setting})
    return out


def _labelled_part(setting: Setting) -> dict[str, Any]:
    """What an arm without unlabelled demonstrations sees of a setting."""
    return {**content(setting), "name": "", "unlabelled": 0, "play": False}


class Board:
    """Every result by (setting, budget, arm); `shared` ones are no runs of their own.

    Raises:
        AptError: two results for one run.
    """

    def __init__(self, found: Sequence[Mapping[str, Any]]):
        self.runs: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
        for each in found:
            runs = self.runs.setdefault((each["setting"], each["budget"], each["arm"]), {})
            if each["seed"] in runs:
                raise AptError(
                    f"Two results for {each['setting']}, {each['arm']}, seed {each['seed']}, {each['budget']}: "
                    f"{runs[each['seed']]['key']} and {each['key']}. Leave one out, or gather again."
                )
            runs[each["seed"]] = each
        self.settings = list(dict.fromkeys(name for name, _, _ in self.runs))
        there = dict.fromkeys(split for each in found for split in each["splits"])
        self.splits = [*(split for split in SPLITS if split in there), *(s for s in there if s not in SPLITS)]

    @property
    def made(self) -> Iterable[Mapping[str, Any]]:
        """Every run once, without copies of it in other settings."""
        return (run for runs in self.runs.values() for run in runs.values() if "of" not in run)

    @property
    def unseen(self) -> list[str]:
        return [split for split in self.splits if split not in TRAINED]

    def budgets(self, setting: str) -> list[str]:
        return [b for b in ("steps", "flops") if any(s == setting and each == b for s, each, _ in self.runs)]

    def arms(self, setting: str, budget: str) -> list[str]:
        """Trained arms and, behind each, itself under other guidance scales."""
        out: list[str] = []
        for s, b, arm in self.runs:
            if (s, b) == (setting, budget):
                scales = dict.fromkeys(scale for run in self.runs[s, b, arm].values() for scale in run["guided"])
                out += [arm, *(guided(arm, scale) for scale in scales)]
        return out

    def counts(self, setting: str, budget: str, arm: str, split: str) -> Counts:
        name, _, scale = arm.partition(" @")
        out = {}
        for seed, run in self.runs.get((setting, budget, name), {}).items():
            splits = run["guided"].get(scale, {}) if scale else run["splits"]
            if split in splits:
                out[seed] = (splits[split]["k"], splits[split]["n"])
        return out

    def over(self, setting: str, budget: str, arm: str, splits: Iterable[str]) -> Counts:
        """Several splits together."""
        return pooled([self.counts(setting, budget, arm, split) for split in splits])

    def rate(self, setting: str, budget: str, arm: str, splits: Iterable[str]) -> Estimate | None:
        return rate(self.over(setting, budget, arm, splits))

    def difference(self, setting: str, budget: str, ours: str, theirs: str, splits: Iterable[str]) -> Estimate | None:
        splits = list(splits)
        return difference(self.over(setting, budget, ours, splits), self.over(setting, budget, theirs, splits))

    def mean(self, setting: str, budget: str, arm: str, *path: str) -> float | None:
        """Mean over seeds of a number inside the results, None where none has it; under guidance, listen's under it."""
        values, scale = [], arm.partition(" @")[2]
        path = ("listen_guided", scale, *path[1:]) if scale and path[0] == "listen" else path
        for run in self.runs.get((setting, budget, arm.partition(" @")[0]), {}).values():
            value: Any = run
            for name in path:
                value = value.get(name) if isinstance(value, Mapping) else None
            if isinstance(value, int | float):
                values.append(value)
        return sum(values) / len(values) if values else None
