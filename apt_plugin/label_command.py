"""`apt-plugin label`: instructions for unlabelled episodes, by a policy that listens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from apt_plugin import files
from apt_plugin.errors import choose
from apt_plugin.hosts import HOSTS, host_of, named
from apt_plugin.listen.labels import Ask, Labels, label
from apt_plugin.tabletop import register

LABELS = "labels.json"


def run(policy: str, labelled: str, unlabelled: str, host: str, how: Ask, output: Path, **options: Any) -> Labels:
    """Everything, files included.

    Raises:
        AptError: a host that cannot write labels, or see `labels.label`.
    """
    host = host or host_of(policy)
    HOSTS[choose("host", host, HOSTS)].require_training()  # what it writes is trained on
    register()
    adapter = named(host)
    known, unknown = adapter.open_label_sets(policy, labelled, unlabelled, **options)
    labels = label(known, unknown, how)
    write(labels, how, output)
    show(labels, how, adapter.write_labels(labels, unknown, output))
    return labels


def write(labels: Labels, how: Ask, folder: Path) -> None:
    """`labels.json`: every episode with its likeliest instruction, the next one and how sure the policy is."""
    rows = zip(labels.episode, labels.task, labels.likeliest, labels.second, labels.sure, strict=True)
    episodes = [
        {"episode": episode, "task": task, "likeliest": best, "second": second, "sure": round(float(sure), 4)}
        for episode, task, best, second, sure in rows
    ]
    calibration = {name: None if value != value else value for name, value in vars(labels.calibration).items()}
    files.write_json(folder / LABELS, {"asked": vars(how), "calibration": calibration, "episodes": episodes})


def show(labels: Labels, how: Ask, then: str) -> None:
    """What was found, in the terminal, and what to do with it (`then`)."""
    console, made = Console(), labels.calibration
    console.print(
        f"On {made.episodes} labelled episodes {100 * made.right:.0f} % were labelled right, {100 * made.scene:.0f} % "
        f"by the scene alone; {100 * made.kept:.0f} % were at least {how.sure:g} sure"
        + (f", {100 * made.kept_right:.0f} % of them right." if made.kept else ".")
    )
    console.print(
        f"Were their own instruction not asked, {100 * made.strangers:.0f} % would be as sure of another: so many "
        "demonstrations of what no instruction says (play) get a label, a wrong one."
    )
    kept = sum(bool(text) for text in labels.task)
    table = Table("instruction", "episodes", title=f"{kept} of {len(labels.task)} unlabelled episodes got one")
    for text, count in Counter(labels.task).most_common():
        table.add_row(text or "(none: not sure enough)", str(count))
    console.print(table)
    console.print(then, soft_wrap=True)
