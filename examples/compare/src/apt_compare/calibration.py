"""What a calibration of `apt-plugin trial` found: its runs as one table, and its cases as rules of picking see them.

One row a run. Of a pilot: what it was asked, and whether the trial's own rule takes it, decided here, where the
answers of every frame are known. Of a full run: its success.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apt_compare.pilots import FULL, Calibration, Case
from apt_compare.worlds import SCORED
from apt_plugin.errors import AptError
from apt_plugin.trial import answer, pick
from apt_plugin.trial.ways import WAYS

COLUMNS = ("setting", "seed", "way", "budget", "steps", "cpu_seconds", "margin", "loss", "pointing", "taken", "k", "n")
Row = Mapping[str, Any]
Picking = Callable[[Sequence[pick.Tried]], str]


@dataclass(frozen=True)
class Known:
    """A way in a case. success: of its full run, in [0, 1]; the others by pilot budget. pointing: what is left of the
    VLM's, in [0, 1]. taken: the trial's own rule takes this way. cpu: seconds by budget, the full run's among them."""

    success: float
    margin: Mapping[str, float]
    loss: Mapping[str, float]
    pointing: Mapping[str, float]
    taken: Mapping[str, bool]
    cpu: Mapping[str, float]


Ways = Mapping[str, Known]  # name -> what is known, the simplest first


def gathered(runs: Sequence[Mapping[str, Any]], told: Calibration) -> list[dict[str, Any]]:
    """Rows of every run that belongs to a case.

    Args:
        runs: results of pilots and of full runs, in any order.
    """
    found = {(run["setting"], run["seed"], run["arm"], run["budget"]): run for run in runs}
    out = []
    for case in told.cases:
        for budget in (*told.pilots, FULL):
            mine = {way: found.get((case.setting, case.seed, arm, budget)) for way, arm in told.ways_of(case).items()}
            there = {way: run for way, run in mine.items() if run is not None}
            taken = trials_own(there) if budget != FULL and len(there) == len(mine) else None
            out += [_row(case, way, budget, run, taken) for way, run in there.items()]
    return out


def trials_own(runs: Mapping[str, Mapping[str, Any]], picking: Picking | None = None) -> str:
    """The way that the trial takes of pilots, by the same code."""
    by_name = {way.name: way for way in WAYS}
    tried = [pick.Tried(by_name[name], [_answer(run)], 0.0) for name, run in runs.items()]
    return pick.pick(tried).way.name if picking is None else picking(tried)


def _answer(run: Mapping[str, Any]) -> answer.Answer:
    return answer.read({**run, "verdict": ""})


def _row(case: Case, way: str, budget: str, run: Mapping[str, Any], taken: str | None) -> dict[str, Any]:
    out: dict[str, Any] = {"setting": case.setting, "seed": case.seed, "way": way, "budget": budget}
    out |= {"steps": sum(run["steps"]), "cpu_seconds": sum(run["cpu"].get(name, 0.0) for name in ("train", "stage1"))}
    asked = run.get("retention") or []
    if asked and len(asked[-1]) == 3:
        out["pointing"] = asked[-1][1]
    if budget == FULL:
        splits = run["splits"]
        out |= {name: sum(splits[split][name] for split in SCORED) for name in ("k", "n")}
        return out | {name: run["listen"][name] for name in ("margin", "loss") if name in run["listen"]}
    return out | {
        "margin": float(np.nanmean(np.array(run["margin"], float))), "loss": float(np.mean(run["loss"])),
        "taken": "" if taken is None else int(way == taken),
    }  # fmt: skip


def write(rows: Iterable[Row]) -> bytes:
    """The table, floats to five digits."""
    out = io.StringIO()
    columns: list[str] = list(COLUMNS)
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{v:.5g}" if isinstance(v, float) else v for name, v in row.items()})
    return out.getvalue().encode()


def read(text: str, told: Calibration) -> dict[Case, Ways]:
    """The cases of which every way has its full run and all pilots but the longest, which are run last.

    Raises:
        AptError: a row that is none of such a table.
    """
    rows: dict[tuple[str, str, str, str], Row] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if set(row) != set(COLUMNS):
            raise AptError(f"The table has columns {', '.join(map(str, row))}; gather it again.")
        rows[row["setting"], row["seed"], row["way"], row["budget"]] = row
    out = {}
    for case in told.cases:
        mine = {
            way: {budget: rows.get((case.setting, str(case.seed), way, budget)) for budget in (*told.pilots, FULL)}
            for way in told.ways_of(case)
        }
        there = [budget for budget in told.pilots if all(by_budget[budget] for by_budget in mine.values())]
        full = all(by_budget[FULL] for by_budget in mine.values())
        if full and len(there) >= max(1, len(told.pilots) - 1):
            out[case] = {way: _known(by_budget, there) for way, by_budget in mine.items()}
    return out


def whole(runs: Sequence[Mapping[str, Any]], told: Calibration) -> dict[Case, Ways]:
    """Every setting and seed of which all ways were trained in full, whether it is a case or not: what a rule would
    pick if the pilots were the full runs."""
    cells: dict[tuple[str, int], dict[str, Row]] = {}
    names = {arm: way for way, arm in told.ways.items()}
    for run in runs:
        if run["budget"] == FULL and run["arm"] in names and {"margin", "loss"} <= run["listen"].keys():
            row = _row(Case(run["setting"], run["seed"], ""), names[run["arm"]], FULL, run, None)
            cells.setdefault((run["setting"], run["seed"]), {})[names[run["arm"]]] = {
                "pointing": "",
                "taken": "",
                **row,
            }
    return {
        Case(setting, seed, ""): {way: _known({FULL: mine[way]}, []) for way in told.ways}
        for (setting, seed), mine in sorted(cells.items())
        if len(mine) == len(told.ways)
    }


def _known(rows: Mapping[str, Any], pilots: Sequence[str]) -> Known:
    def column(name: str) -> dict[str, float]:
        return {budget: float(rows[budget][name] or "nan") for budget in (*pilots, FULL)}

    return Known(
        success=int(rows[FULL]["k"]) / int(rows[FULL]["n"]),
        margin=column("margin"), loss=column("loss"), pointing=column("pointing"),
        taken={pilot: rows[pilot]["taken"] == "1" for pilot in pilots},
        cpu={budget: float(rows[budget]["cpu_seconds"]) for budget in (*pilots, FULL)},
    )  # fmt: skip
