"""Settings whose seeds have a world and a VLM each, as one table: success by arm, intervals over the worlds.

The other settings have one world, two VLMs and another score; their report is `reporting`. Neither holds the other's
results: a figure would be read as if it were of the same instrument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_compare import marked
from apt_compare.plan import Configs
from apt_compare.stats import Counts, Estimate, difference, rank_correlation, rate

SCORED = ("task", "combination", "object", "environment", "wording")  # `position` is `seen` again, `chained` 0 to 2 %
FEWEST = 8  # runs below which nothing is said of what goes with success
RIVALS = ("stock_full", "stock_frozen", "warmup")  # one stage, no gates
BEGIN, END = "<!-- worlds: written by `apt-compare worlds` -->", "<!-- end of worlds -->"
Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]  # arm, with its guidance -> world -> run


def apart(found: Sequence[Mapping[str, Any]], configs: Configs) -> tuple[list[Any], list[Any]]:
    """(results of settings with one world, results of settings with a world a seed)."""
    own = {name for name, setting in configs.settings.items() if setting.worlds == "each"}
    return [each for each in found if each["setting"] not in own], [each for each in found if each["setting"] in own]


def write_page(found: Sequence[Mapping[str, Any]], configs: Configs, path: Path) -> None:
    """The tables between the two marks of a Markdown page; the rest of the page is left alone.

    Raises:
        AptError: no page there, or one without the marks.
    """
    marked.write(path, (BEGIN, END), lambda page: with_tables(page, found, configs))


def with_tables(page: str, found: Sequence[Mapping[str, Any]], configs: Configs) -> str:
    """The page with its tables renewed."""
    lines: list[str] = []
    for name in configs.settings:
        runs = by_arm([each for each in found if each["setting"] == name])
        said = [line for told in sentences(runs) for line in (told, "")]
        lines += [f"`{name}`. {configs.settings[name].says}", "", *table(runs), "", *said] if runs else []
    return marked.renewed(page, (BEGIN, END), lines)


def by_arm(found: Sequence[Mapping[str, Any]]) -> Runs:
    """Each run under its arm, and once more under "<arm> @<scale>" with what it did under that guidance."""
    out: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in found:
        out.setdefault(run["arm"], {})[run["seed"]] = run
        for scale, splits in run["guided"].items():
            guided = {**run, "splits": splits, "task_usual": None}
            out.setdefault(f"{run['arm']} @{scale}", {})[run["seed"]] = guided
    return out


def score(run: Mapping[str, Any]) -> float:
    """Mean success over `SCORED`."""
    k, n = counts({0: run})[0]  # as many episodes a split
    return k / n


def counts(runs: Mapping[int, Mapping[str, Any]], splits: Sequence[str] = SCORED) -> Counts:
    """By world: (successes, episodes) of some splits together."""
    return {
        seed: (sum(run["splits"][s]["k"] for s in splits), sum(run["splits"][s]["n"] for s in splits))
        for seed, run in runs.items()
    }


def table(runs: Runs) -> list[str]:
    """Markdown: success in %, how often a `task` ended at the usual target, the five against each rival, and
    what is left of the VLM's pointing and naming."""
    head = ["arm", "worlds", "seen", "task (95 %)", "to the usual", *SCORED[1:]]
    rivals = [rival for rival in RIVALS if rival in runs]
    head += ["five (95 %)", *(f"minus `{rival}`" for rival in rivals), "pointing", "naming"]
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    ranked = sorted(runs, key=lambda arm: -sum(map(score, runs[arm].values())) / len(runs[arm]))
    for arm in ranked:
        each = runs[arm]
        cells = [_shown(rate(counts(each, [name])), split=name) for name in ("seen", *SCORED)]
        cells.insert(2, _habit(list(each.values())))
        cells += [_shown(rate(counts(each))), *(_against(arm, runs, rival) for rival in rivals)]
        cells += [_mean([run["retention"][-1][column] for run in each.values()]) for column in (1, 2)]
        out.append(f"| `{arm}` | {len(each)} | {' | '.join(cells)} |")
    return out


def _habit(runs: Sequence[Mapping[str, Any]]) -> str:
    """Of the episodes of `task`, in %, that went to the usual target; a table of results keeps no guided ones."""
    told = [run["splits"]["task"].get("where", {}).get("usual", run.get("task_usual")) for run in runs]
    if None in told:
        return ""
    return f"{100 * sum(told) / sum(run['splits']['task']['n'] for run in runs):.0f}"


def sentences(runs: Runs) -> list[str]:
    """What goes with success."""
    every = [run for arm, each in runs.items() if " @" not in arm for run in each.values()]
    every = [run for run in every if len(run["retention"]) > 1]  # of a frozen VLM nothing was lost
    if len(every) < FEWEST:
        return []
    value, low, high = rank_correlation([(run["retention"][-1][1], score(run)) for run in every])
    what = f"Pointing kept and success, {len(every)} runs that train the VLM"
    return [f"{what}: rank correlation {value:.2f} ({low:.2f} to {high:.2f})."]


def _against(arm: str, runs: Runs, rival: str) -> str:
    """The difference on the five, over the worlds that both have."""
    made = difference(counts(runs[arm]), counts(runs[rival])) if arm != rival else None
    if made is None:
        return ""
    if made.seeds < 2:
        return f"{100 * made.value:+.0f}"
    return f"{100 * made.value:+.0f} ({100 * made.low:+.0f} to {100 * made.high:+.0f})"


def _shown(made: Estimate | None, split: str = "") -> str:
    """The interval where it is wanted: of `task` and of the five."""
    assert made is not None
    value = f"{100 * made.value:.0f}"
    if split not in ("", "task") or made.seeds < 2:
        return value
    return f"{value} ({100 * made.low:.0f} to {100 * made.high:.0f})"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}"
