"""A learning rate for every arm, chosen on the seen split alone, so that no arm loses for want of a good one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from apt_compare.plan import Configs, Job, Shelf
from apt_compare.spec import Arm, Setting
from apt_plugin import files

FACTORS = (1 / 3, 1.0, 3.0)
CLOSE = 0.02  # seen success this near counts as a tie, which the training loss breaks
SEED = 90  # of the sweeps: none of the comparison's own


def sweep(setting: Setting, arms: Sequence[Arm], seeds: int) -> list[Job]:
    """Three rates around the setting's default per arm, under seeds that the comparison does not use."""
    alone = dataclasses.replace(setting, name=f"{setting.name}~tune", budgets=("steps",))
    return [
        Job(alone, arm, SEED + seed, "steps", _nice(factor * _default(setting, arm)))
        for seed in range(seeds)
        for arm in arms
        for factor in FACTORS
    ]


def swept(configs: Configs, setting: Setting, names: Sequence[str]) -> list[Arm]:
    """The arms to sweep. One that takes another's rate is swept where it is asked for by name: is that rate a fair one
    for it too?"""
    chosen = [configs.arms[name] for name in names or setting.arms or configs.arms]
    return [arm for arm in chosen if not arm.lr and (names or not arm.rate_like)]


def _default(setting: Setting, arm: Arm) -> float:
    return setting.lr_expert if arm.vlm == "frozen" else setting.lr_full


def _nice(rate: float) -> float:
    return float(f"{rate:.2g}")  # the default itself is the middle one


def choose_rate(rows: Sequence[dict[str, float]]) -> float:
    """The best seen success; among those within `CLOSE` of it the lowest training loss."""
    top = max(row["seen"] for row in rows)
    return min((row for row in rows if row["seen"] >= top - CLOSE), key=lambda row: row["loss"])["rate"]


def final_loss(curve: Sequence[Sequence[float]]) -> float:
    """Mean of the last tenth of a learning curve."""
    tail = [value for _, value in curve[-max(1, len(curve) // 10) :]]
    return sum(tail) / len(tail)


def tune(
    configs: Configs, settings: Sequence[str], arms: Sequence[str], seeds: int, out: Path, folder: Path,
    processes: int, quiet: bool,
) -> int:  # fmt: skip
    """Sweep, then write `rates.yaml` (what runs use) and `tuned.json` (why) into the folder of configs."""
    from apt_compare.running import work

    tuned = files.read_json(folder / "tuned.json") if (folder / "tuned.json").is_file() else {}
    for name in settings or list(configs.settings)[:1]:
        setting = configs.settings[name]
        chosen = swept(configs, setting, arms)
        jobs = sweep(setting, chosen, seeds or 1)
        work(jobs, out, processes, not quiet)
        shelf = Shelf(out)
        for arm in chosen:
            rows = [row for job in jobs if job.arm.name == arm.name and (row := _row(job, shelf)) is not None]
            if rows:
                tried = _means(rows)
                tuned.setdefault(name, {})[arm.name] = {"rate": choose_rate(tried), "tried": tried}
    files.write_json(folder / "tuned.json", tuned)
    rates = {name: {arm: found["rate"] for arm, found in each.items()} for name, each in tuned.items()}
    if rates:
        rates["*"] = {**next(iter(rates.values())), **rates.get("*", {})}  # settings without a sweep of their own
    text = "# Written by `apt-compare tune`; tuned.json beside it says why.\n" + yaml.safe_dump(rates)
    files.write_bytes(folder / "rates.yaml", text.encode())
    return 0


def _row(job: Job, shelf: Shelf) -> dict[str, float] | None:
    if not shelf.path(job).is_file():
        return None
    made: Any = files.read_json(shelf.path(job))
    seen = made["splits"]["seen"]
    return {"rate": job.rate, "seen": seen["k"] / seen["n"], "loss": final_loss(made["curve"]["last"])}


def _means(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    out = []
    for rate in sorted({row["rate"] for row in rows}):
        same = [row for row in rows if row["rate"] == rate]
        mean = {name: round(sum(row[name] for row in same) / len(same), 4) for name in ("seen", "loss")}
        out.append({"rate": rate, "seeds": len(same), **mean})
    return out
