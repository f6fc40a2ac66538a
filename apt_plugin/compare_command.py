"""`apt-plugin compare`: plan, run, tune, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from apt_plugin.errors import AptError

OWN = Path("configs/compare")


@dataclass(frozen=True)
class Compare:
    """Many ways of training a policy on one tabletop, in the host's own code, at equal steps and equal counted FLOPs.

    plan: which runs there are; run: do them (stops and resumes anywhere, several processes share the work); tune: find
    each arm's learning rate on the seen split; report: tables, plots and a sentence per question; gather: all results
    as one file.
    """

    action: Annotated[Literal["plan", "run", "tune", "report", "gather"], tyro.conf.Positional]
    output: Path = Path("apt-compare")
    """Results, grounded VLMs and shared first stages; for report and gather: where they write."""
    configs: Path | None = None
    """Folder with arms/, settings/, rates.yaml and questions.yaml; left out: configs/compare here, or else ours."""
    results: Path | None = None
    """report, gather: a folder of runs or a .jsonl file; left out: the output folder."""
    settings: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    budgets: tuple[Literal["steps", "flops"], ...] = ()
    seeds: int = 0
    """0: as many as the setting says."""
    processes: int = 1
    quiet: bool = False

    def __call__(self) -> int:
        from rich.console import Console

        from apt_plugin.compare import plan
        from apt_plugin.compare.board import current

        folder = self.configs or (OWN if OWN.is_dir() else plan.shipped())
        console, configs = Console(), plan.read(folder)
        if self.action in ("report", "gather"):
            source = self.results or self.output
            found: Any = plan.results(source)
            if source.is_dir():  # a folder may hold runs of arms that were edited since; a gathered file was filtered
                found = current(found, configs)
            if self.action == "gather":
                plan.gather(found, self.output / "results.jsonl" if self.output.suffix != ".jsonl" else self.output)
                return 0
            from apt_plugin.compare.reporting import write

            write(found, configs, self.output)
            return 0
        if self.action == "tune":
            from apt_plugin.compare.tuning import tune

            if folder == plan.shipped() and self.configs is None:
                raise AptError(
                    f"tune writes rates.yaml beside the arms. Copy {folder} to {OWN} first, or name a folder."
                )
            return tune(configs, self.settings, self.arms, self.seeds, self.output, folder, self.processes, self.quiet)
        jobs = plan.jobs(configs, self.settings, self.arms, self.seeds, self.budgets)
        shelf = plan.Shelf(self.output)
        if self.action == "plan":
            for job in jobs:
                state = "done" if shelf.path(job).is_file() else "FAILED" if shelf.failure(job).is_file() else "open"
                console.print(f"{state:7s} rate {job.rate:g}  {job.key}", highlight=False)
            console.print(f"{len(jobs)} runs, {sum(shelf.path(job).is_file() for job in jobs)} done")
            return 0
        from apt_plugin.compare.running import work

        work(jobs, self.output, self.processes, not self.quiet)
        failed = [job.key for job in jobs if shelf.failure(job).is_file()]
        for key in failed:
            console.print(f"failed: {key} (see {self.output}/failed)")
        return 1 if failed else 0
