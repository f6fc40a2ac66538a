"""`doctor`, `prove` and `export`: what is here, what holds, what can leave."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from apt_plugin import files
from apt_plugin.hosts import HOSTS, Host, Level, named
from apt_plugin.proofs import Verdict
from apt_plugin.proofs import prove as run_proofs
from apt_plugin.run.resumed import proven
from apt_plugin.stages import find_checkpoint, read_record

_SHOWN = {Level.TESTED: "[green]yes[/]", Level.UNTESTED: "[yellow]untested[/]", Level.REFUSED: "[red]no[/]"}
_LINES = 3  # of an old release nearly all fail
_WIDE = 200


def report() -> int:
    """Print hosts, versions, support, registrations, probes and canaries; status 0 when at least one host is usable."""
    table = Table("host", "installed", "supported", "probes", "why", "registers", title="apt-plugin doctor")
    found = {host: host.standing() for host in HOSTS.values()}
    for host, standing in found.items():
        registers, installed, count = host.adapter.policies, host.version(), len(host.adapter.probes)
        table.add_row(
            host.name,
            installed or "-",
            _SHOWN[standing.level],
            f"{count - len(standing.failed)} of {count}" if installed else "-",
            escape(standing.reason),
            (standing.usable and ", ".join(f"{theirs} -> {ours}" for theirs, ours in registers.items())) or "-",
        )
    console = Console()
    console.print(table)
    for host, standing in found.items():
        if host.version():
            console.print(f"[bold]{host.name}[/] probes: {escape(', '.join(p.name for p in host.adapter.probes))}")
        if standing.usable:
            _show_tried(console, host)
        for line in standing.failed[:_LINES]:
            console.print(f"[red]{host.name}[/]: {escape(line)}", soft_wrap=True)
        if (more := len(standing.failed) - _LINES) > 0:
            console.print(f"[red]{host.name}[/]: and {more} more probes")
        for line in host.adapter.notes() if standing.usable else ():
            console.print(line, markup=False)
    if any(standing.usable for standing in found.values()):
        return 0
    console.print(
        "No supported host here: pip install 'apt-plugin[lerobot]', or install beside openpi or GR00T.", markup=False
    )
    return 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Proofs open one checkpoint again and again: that it was loaded and continued is no news, their table is."""
    ours = logging.getLogger(__package__)
    level = ours.level
    ours.setLevel(logging.WARNING)
    try:
        yield
    finally:
        ours.setLevel(level)


def _show_tried(console: Console, host: Host) -> None:
    """What the host does, tried on something tiny; half a minute, most of it for its imports."""
    with console.status(f"{host.name}: trying tiny models ..."):
        broken = host.tried()
    console.print(
        f"[bold]{host.name}[/] tried on tiny models: {'[red]not as expected[/]' if broken else 'as expected'}"
    )
    for line in broken:
        console.print(f"[red]{host.name}[/]: {escape(line)}", soft_wrap=True)


def prove(checkpoint: str, json: Path | None, device: str | None) -> int:
    """Measure, print, optionally write; 1 when a contract fails."""
    console = Console()
    if not console.is_terminal:  # a log: a proof is one line there
        console = Console(width=_WIDE)
    folder = find_checkpoint(Path(checkpoint))
    adapter = named(read_record(folder).host)
    spinner = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console)
    with spinner as bar, _quiet():
        task = bar.add_task("opening")
        subject = adapter.open_subject(folder, device)
        verdict = Verdict(run_proofs(subject, lambda name: bar.update(task, description=name)))
    table = Table("contract", "what", "value", "limit", "holds", "note", title=f"Contracts on {checkpoint}")
    for proof in verdict.proofs:
        value = proof.value if isinstance(proof.value, str) else f"{proof.value:.3g}"
        held = {True: "[green]yes[/]", False: "[red]NO[/]", None: "-"}[proof.passed]
        table.add_row(str(proof.contract), *map(escape, (proof.what, value, proof.limit)), held, escape(proof.note))
    console.print(table)
    console.print("[green]All contracts hold.[/]" if verdict.holds else "[red]A contract does not hold.[/]")
    if json is not None:
        files.write_json(json, {**verdict.as_json(), "of": proven(folder)})
    return 0 if verdict.holds else 1


def export(checkpoint: Path, output: Path) -> int:
    """Write a stock checkpoint where folding is exact.

    Raises:
        AptError: it is not, with the reason.
    """
    folder = find_checkpoint(checkpoint)
    named(read_record(folder).host).export(folder, output)
    return 0
