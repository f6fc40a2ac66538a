"""How far a trial is, a line a run, with the time that is left: by what was measured, or by the runs that are done."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from apt_plugin.run import lock
from apt_plugin.trial import runs
from apt_plugin.trial.runs import Short


def show(every: Sequence[Short], trial: Path, now: Short | None, target: Console | None = None) -> None:
    """On the terminal, before a run begins and behind the last.

    Args:
        now: the run that this process begins.
    """
    target = target or Console(file=sys.stderr)
    rows, left, hands = lines(every, trial, now)
    target.print(f"trial: {total(left, hands)}", highlight=False)
    grid = Table.grid(padding=(0, 2))
    for title, state in rows:
        grid.add_row(f"  {title}", state)
    target.print(grid)


def lines(every: Sequence[Short], trial: Path, now: Short | None) -> tuple[list[tuple[str, str]], float | None, int]:
    """((title, where it stands) of each run; seconds of work left, None where no run is done yet; processes)."""
    mine = [run for run in every if now is not None and run.folder(trial) == now.folder(trial)]
    others = (run for run in every if run not in mine and not run.done(trial))
    busy = [run for run in others if lock.busy(run.folder(trial))]
    mean = _mean([took(run, trial) for run in every if run.done(trial)])
    rows, left, unknown = [], 0.0, False
    for run in every:
        if run.done(trial):
            rows.append((run.title, f"done in {words(took(run, trial))}"))
            continue
        if runs.failed(run, trial) and run not in (*busy, *mine):
            rows.append((run.title, "failed; the same command tries it again"))
            continue
        needs = _mean([took(each, trial) for each in every if each.way == run.way and each.done(trial)])
        needs = needs or run.expected or mean
        where = "now" if run in mine else "in another process" if run in busy else "waits"
        if needs is None:
            unknown = True
            rows.append((run.title, where))
            continue
        rest = max(needs - (_since(run, trial) if run in busy else 0.0), 0.0)
        left += rest
        rows.append((run.title, f"{where}, about {words(rest)}{'' if where == 'waits' else ' left'}"))
    return rows, None if unknown else left, len(busy) + len(mine)


def took(run: Short, trial: Path) -> float:
    """Seconds of a run that is done, asking included."""
    return runs.seconds(run, trial) + runs.asking(run, trial)


def total(left: float | None, hands: int) -> str:
    """How long all of it still takes."""
    shared = f" in {hands} processes" if hands > 1 else ""
    if left is None:
        return f"the time left is known once a run is done{shared}"
    return f"about {words(left / max(hands, 1))} left{shared}"


def words(seconds: float) -> str:
    """As somebody says it."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


def _since(run: Short, trial: Path) -> float:
    """Seconds since another process took a run: its lock is written then."""
    path = lock.path_of(run.folder(trial))
    return time.time() - path.stat().st_mtime if path.is_file() else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
