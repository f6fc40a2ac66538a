"""`apt-compare`: plan, run, tune, gather, report."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from apt_compare import plan
from apt_compare.spec import PILOTS
from apt_plugin import files
from apt_plugin.errors import AptError


@dataclass(frozen=True)
class Compare:
    """Many ways of training a policy on one tabletop, in the host's own code, at equal steps and equal counted FLOPs.

    plan: which runs there are. run: do them (stops and resumes anywhere, several processes share the work).
    tune: find each arm's learning rate on the seen split. gather: all results as one table. report: tables,
    plots and a sentence per question. page: write those sentences into a page such as findings.md. worlds: the
    same for the tables of settings whose seeds have a world each, which the report leaves out. pictures: which
    way led where. pilots: the short and full runs of calibration.yaml. calibration: how often a pick by those
    is right, into a page such as calibration.md.
    """

    action: Annotated[
        Literal["plan", "run", "tune", "gather", "report", "page", "worlds", "pictures", "pilots", "calibration"],
        tyro.conf.Positional,
    ]
    output: Path = Path("apt-compare")
    """Results, grounded VLMs, shared first stages. For report, pictures: a folder; for gather, page, worlds: a file."""
    configs: Path | None = None
    """Folder with arms/, settings/, rates.yaml and questions.yaml; left out: ours."""
    results: Path | None = None
    """gather, report, page, worlds, pictures: a folder of runs or a .csv table; left out: the output folder."""
    known: tuple[Path, ...] = ()
    """pictures, pilots, calibration: tables of full runs that are done already."""
    settings: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    budgets: tuple[Literal["steps", "flops"], ...] = ()
    seeds: int = 0
    """0: as many as the setting says."""
    processes: int = 1
    quiet: bool = False

    def __call__(self) -> int:
        folder = self.configs or plan.shipped()
        configs = plan.read(folder)
        if self.action in ("gather", "report", "page", "worlds", "pictures"):
            return self._from_results(configs)
        if self.action == "tune":
            from apt_compare.tuning import tune

            if self.configs is None:
                raise AptError("tune writes rates.yaml beside the arms. Name their folder: --configs configs.")
            return tune(configs, self.settings, self.arms, self.seeds, self.output, folder, self.processes, self.quiet)
        if self.action == "pilots":
            return self._run(self._pilots(configs))
        if self.action == "calibration":
            return self._calibration(configs)
        jobs = plan.jobs(configs, self.settings, self.arms, self.seeds, self.budgets)
        return self._list(jobs) if self.action == "plan" else self._run(jobs)

    def _from_results(self, configs: plan.Configs) -> int:
        from apt_compare import reporting, worlds
        from apt_compare.board import current

        source = self.results or self.output
        found: Any = plan.results(source)
        if source.is_dir():  # a folder may hold runs of arms that were edited since; a gathered table was filtered
            found = current(found, configs)
        found = [run for run in found if run["budget"] not in PILOTS]  # of which `calibration` tells
        one_world, each = worlds.apart(found, configs)
        if self.action == "gather":
            plan.gather(found, self.output if self.output.suffix == ".csv" else self.output / "results.csv")
        elif self.action == "page":
            reporting.write_page(one_world, configs, self.output)
        elif self.action == "worlds":
            worlds.write_page(each, configs, self.output)
        elif self.action == "pictures":
            from apt_compare import pictures

            pictures.write(
                [*found, *(run for table in self.known for run in plan.results(table))], configs, self.output
            )
        else:
            reporting.write(one_world, configs, self.output)
        return 0

    def _known(self, configs: plan.Configs) -> list[Any]:
        from apt_compare.board import shared

        return shared([run for table in self.known for run in plan.results(table)], configs)

    def _pilots(self, configs: plan.Configs) -> list[plan.Job]:
        from apt_compare import pilots

        cells = {(run["setting"], run["arm"], run["seed"], run["budget"]) for run in self._known(configs)}
        asked = pilots.jobs(pilots.read(configs), configs)
        return [job for job in asked if (job.setting.name, job.arm.name, job.seed, job.budget) not in cells]

    def _calibration(self, configs: plan.Configs) -> int:
        from apt_compare import calibration, calibration_page, pilots
        from apt_compare.board import current

        told = pilots.read(configs)
        source, table = self.results or self.output.with_suffix(".csv"), self.output.with_suffix(".csv")
        known = self._known(configs)
        if source.is_dir():
            runs = [*known, *current(plan.results(source), configs)]
            files.write_bytes(table, calibration.write(calibration.gathered(runs, told)))
            source = table
        cases = calibration.read(source.read_text(), told)
        calibration_page.write_page(cases, told, self.output, calibration.whole(known, told))
        return 0

    def _list(self, jobs: list[plan.Job]) -> int:
        shelf = plan.Shelf(self.output)
        for job in jobs:
            state = "done" if shelf.path(job).is_file() else "FAILED" if shelf.failure(job).is_file() else "open"
            print(f"{state:7s} rate {job.rate:g}  {job.key}")
        print(f"{len(jobs)} runs, {sum(shelf.path(job).is_file() for job in jobs)} done")
        return 0

    def _run(self, jobs: list[plan.Job]) -> int:
        from apt_compare.running import work

        shelf = plan.Shelf(self.output)
        work(jobs, self.output, self.processes, not self.quiet)
        failed = [job.key for job in jobs if shelf.failure(job).is_file()]
        for key in failed:
            print(f"failed: {key} (see {self.output}/failed)")
        return 1 if failed else 0


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        sys.exit(tyro.cli(Compare, prog="apt-compare")())
    except AptError as error:
        sys.exit(f"apt-compare: {error}")


if __name__ == "__main__":
    main()
