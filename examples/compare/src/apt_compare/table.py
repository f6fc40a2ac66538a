"""Results as one table, a row a run: what the report needs of a result, small enough for a repository.

Left out of a result: learning curves, gate values, where the arm went, versions, and how well the VLM was grounded.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.tabletop.splits import SPLITS

NUMBERS = ("loss", "margin", "retrieval", "sensitivity", "blank gap")
# Column -> where the number stands in a result.
PATHS = {
    "rate": ("rate",),
    "stock_flops": ("flops", "stock"),
    "total_flops": ("flops", "total"),
    "cpu_seconds": ("cpu", "train"),
    "wall_seconds": ("wall", "train"),
    **{name.replace(" ", "_"): ("listen", name) for name in NUMBERS},
    "labels_right": ("labels_right",),
}
# Where a run has them: "step pointing naming; ..." of its VLM, and how many `task` episodes went to the usual target.
LATER = ("retention", "task_usual")
FIRST = ("setting", "arm", "seed", "budget", "digest", "stage1_steps", "last_steps", "episodes")


def write(found: Sequence[Mapping[str, Any]]) -> bytes:
    """The table of many results, in the order of their keys. A column `task@1.5` or `margin@1.5`: the same policy
    under guidance 1.5.

    Raises:
        AptError: splits of one run that differ in their number of episodes.
    """
    splits = [split for split in SPLITS if any(split in each["splits"] for each in found)]
    scales = sorted({scale for each in found for scale in each["guided"]}, key=float)
    later = LATER if any(each.get("retention") for each in found) else ()
    guided = (*splits, "margin") if any(each.get("listen_guided") for each in found) else splits
    columns = [*FIRST, *PATHS, *later, *splits, *(f"{name}@{scale}" for scale in scales for name in guided)]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for each in sorted(found, key=lambda result: result["key"]):
        writer.writerow(_row(each) | {name: value for name, value in _later(each).items() if name in later})
    return out.getvalue().encode()


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    tested = {"": result["splits"], **{f"@{scale}": splits for scale, splits in result["guided"].items()}}
    counts = {f"{split}{scale}": count for scale, splits in tested.items() for split, count in splits.items()}
    episodes = {count["n"] for count in counts.values()}
    if len(episodes) != 1:
        raise AptError(f"{result['key']} was tested on {sorted(episodes)} episodes; a table holds one number a run.")
    seconds = {clock: sum(result[clock].get(name, 0.0) for name in ("train", "stage1")) for clock in ("cpu", "wall")}
    flat = {**result, **{clock: {"train": value} for clock, value in seconds.items()}}
    return {
        **{name: result[name] for name in ("setting", "arm", "seed", "budget")},
        "digest": result["key"].rpartition("--")[2],
        "stage1_steps": result["steps"][0],
        "last_steps": result["steps"][1],
        "episodes": episodes.pop(),
        **{column: _short(_at(flat, path)) for column, path in PATHS.items()},
        **{name: count["k"] for name, count in counts.items()},
        **{f"margin@{scale}": _short(n["margin"]) for scale, n in result.get("listen_guided", {}).items()},
    }


def _later(result: Mapping[str, Any]) -> dict[str, Any]:
    asked = "; ".join(f"{step:.0f} {kept:.3g} {named:.3g}" for step, kept, named in result.get("retention") or [])
    where = result["splits"].get("task", {}).get("where", {})
    return {"retention": asked, "task_usual": where.get("usual", result.get("task_usual", 0))}


def _at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = values
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _short(value: Any) -> Any:
    """Six digits; a whole number without its decimal point."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def read(text: str) -> list[dict[str, Any]]:
    """Results as `write` left them; both clocks hold the seconds of both stages under "train".

    Raises:
        AptError: a line that is no row of such a table.
    """
    try:
        return [_result(row) for row in csv.DictReader(io.StringIO(text))]
    except (KeyError, TypeError, ValueError) as error:
        raise AptError(f"The table of results has a row that cannot be read ({error}): gather it again.") from error


def _result(row: Mapping[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {
        **{name: row[name] for name in ("setting", "arm", "budget")},
        "seed": int(row["seed"]),
        "steps": [int(row["stage1_steps"]), int(row["last_steps"])],
        "key": f"{row['setting']}--{row['arm']}--s{row['seed']}--{row['budget']}--{row['digest']}",
        "splits": {},
        "guided": {},
    }
    for column, path in PATHS.items():
        inner = out
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        if row[column] or len(path) == 1:
            inner[path[-1]] = float(row[column]) if row[column] else None
    if row.get("retention"):
        asked = [tuple(map(float, each.split())) for each in row["retention"].split("; ")]
        out |= {"retention": asked, "task_usual": int(row["task_usual"])}
    for column, k in row.items():
        split, _, scale = column.partition("@")
        if split in SPLITS and k:
            tested = out["guided"].setdefault(scale, {}) if scale else out["splits"]
            tested[split] = {"k": int(k), "n": int(row["episodes"])}
        elif split == "margin" and scale and k:
            out.setdefault("listen_guided", {})[scale] = {"margin": float(k)}
    return out
