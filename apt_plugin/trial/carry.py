"""A trial from its first look to its page. Nothing is trained before everything that can be known is looked at."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from apt_plugin import files, report, vlm
from apt_plugin.errors import AptError
from apt_plugin.hosts.adapter import QUIET, Adapter, Command
from apt_plugin.launch import split
from apt_plugin.run import preflight
from apt_plugin.run.lock import only_one
from apt_plugin.run.staged import Staged, call, carry_out
from apt_plugin.trial import answer, held_out, pages, pick, plan, runs
from apt_plugin.trial.options import Options, check_ours
from apt_plugin.trial.ways import WAYS, Way, fitting

logger = logging.getLogger(__name__)
PAGE, NUMBERS = "trial.html", "trial.json"
TRIAL = "trial"  # what an adapter calls it where it has none
CHILD = "apt_plugin.trial_command"


class Trial:
    """One trial of a host's training command.

    Args:
        run: starts a process and waits for it. train: carries out a command line of the host with flags of ours.
    """

    def __init__(
        self, host: Adapter, command: Sequence[str], options: Options, run: Callable[[Command], int] | None = None
    ):
        if (why := host.unsupported.get(TRIAL)) is not None:
            raise AptError(f"apt-plugin trial: {why}")
        if "WORLD_SIZE" in os.environ:
            raise AptError("A trial starts several runs. Put the launcher inside: apt-plugin trial torchrun ... train")
        self.host, self.command, self.options, self._run = host, list(command), options, run or call
        self.pilot = host.pilot(command)
        ours = WAYS[-1].our_flags(self.pilot, options.ours)
        check_ours(split([*command, *ours], host.name).given, ", in the file that --apt.config names")
        self.steps = max(2, round(options.budget * self.pilot.steps))
        self.folder = options.output.absolute()

    def carry(self) -> int:
        """Everything; the exit status: 0, 1 where a way failed, or that of a process or signal that ended it.

        Raises:
            AptError: data that cannot teach, nothing to hold out, a way that does not fit, another trial's folder.
        """
        self.ways, self.lacking = fitting(self.host, self.command, self.options.arms)
        with only_one(self.folder):
            return self._look() or self._carry()

    def _look(self) -> int:
        """Before anything is spent: flags of every way, the data, the pre-flight."""
        for way in self.ways:
            self._parsed(way)
        begun = (self.folder / plan.PLAN).is_file()
        if not begun and (status := self._ours("data", self.folder, {})):
            return status
        labels = plan.labels(files.read_json(self.folder / plan.DATA))
        opts = self.options
        scenes = None if opts.scenes is None else held_out.read_scenes(opts.scenes, labels)
        self.split = held_out.split(labels, opts.held_out, scenes)
        plan.check(self.folder, self._plan())
        parts = (f"{len(self.split.train)} episodes are trained on", f"{len(self.split.asked)} are held out")
        logger.info("trial: %d steps a run; %s.", self.steps, ", ".join(parts))
        if all((run.folder(self.folder) / runs.ANSWER).is_file() for run in self._runs()):
            return 0
        request = split(self._short(WAYS[-1], self.folder / "check", 0), self.host.name)
        stages = self.host.stages(request)
        assert stages is not None
        status, facts = Staged(stages, request, self._run).look()
        status = status or int(preflight.say(facts))
        if not status:  # a command that was refused may be mended, and is then another one
            plan.settle(self.folder, self._plan())
        return status

    def _parsed(self, way: Way) -> None:
        """Says nothing: each run says by itself what was settled for it.

        Raises:
            AptError: flags of ours that cannot be followed.
        """
        request = split([*self.command, *way.our_flags(self.pilot, self.options.ours)], self.host.name)
        if request.frozen_share is not None:
            self.host.warmup(request)
        elif (stages := self.host.stages(request)) is not None:
            said = vlm.logger.level
            vlm.logger.setLevel(logging.WARNING)
            try:
                _ = stages.recipe, stages.budget
            finally:
                vlm.logger.setLevel(said)

    def _plan(self) -> dict[str, Any]:
        opts = self.options
        return {
            "command": self.command, "our_flags": [list(pair) for pair in opts.ours], "steps": self.steps,
            "number_of_frames": opts.frames, "train": self.split.train, "held_out": self.split.held_out,
            "pairs": self.split.pairs,
        }  # fmt: skip

    def _carry(self) -> int:
        status = runs.carry(self._runs(), self.folder, self.options.keep)
        if status not in runs.ENDED:
            self._write()
        return status

    def _runs(self) -> list[runs.Short]:
        several = self.options.seeds > 1
        return [
            runs.Short(
                way.name, seed, way.title + (f", run {seed + 1} of {self.options.seeds}" if several else ""),
                partial(self._train, way, seed), self._ask,
            )
            for seed in range(self.options.seeds)
            for way in self.ways
        ]  # fmt: skip

    def _short(self, way: Way, run: Path, seed: int) -> list[str]:
        flags, ours = way.host_flags(self.pilot), way.short_flags(self.pilot, self.options.ours)
        return self.pilot.short(flags, ours, run, self.steps, self.split.train, seed)

    def _train(self, way: Way, seed: int, run: Path) -> int:
        argv = self._short(way, run, seed)
        logger.info("trial: %s: %s", way.title, " ".join(argv))
        return carry_out(self.host, split(argv, self.host.name))

    def _ask(self, folder: Path) -> int:
        policy = self.pilot.policy(folder / runs.RUN)
        if policy is None:
            raise AptError("its training ended and left no checkpoint.")
        job = {"policy": str(policy), "episodes": self.split.asked, "frames": self.options.frames}
        return self._ours("ask", folder, job | {"asked": str(self.folder / plan.ASKED)})

    def _ours(self, what: str, folder: Path, job: dict[str, Any]) -> int:
        """A process that imports the host, so that none of it stays in memory."""
        path = folder / f"{what}.job.json"
        files.write_json(path, {"host": self.host.name, "command": self.command, "output": str(folder)} | job)
        return self._run(Command([sys.executable, "-m", CHILD, what, str(path)], QUIET))

    def _write(self) -> None:
        tried, lacking = [], dict(self.lacking)
        for way in self.ways:
            mine = [run for run in self._runs() if run.way == way.name]
            said = [runs.answer(run, self.folder) for run in mine]
            if all(value is not None for value in said):
                spent = sum(runs.seconds(run, self.folder) for run in mine) / len(mine)
                tried.append(pick.Tried(way, [answer.read(value) for value in said], spent))
            else:
                lacking[way.name] = next(filter(None, (runs.failed(run, self.folder) for run in mine)), "")
        taken = pick.pick(tried) if tried else None
        command = "" if taken is None else pages.shell(self.full(taken.way))
        facts = {
            "host": self.host.name, "your steps": f"{self.pilot.steps:,}", "steps of a run": f"{self.steps:,}",
            "episodes trained on": str(len(self.split.train)), "held out": str(len(self.split.asked)),
            "runs of each way": str(self.options.seeds),
        }  # fmt: skip
        settings = {name: value for name, value in self._plan().items() if name not in ("train", "held_out", "pairs")}
        written = pages.sections(tried, taken, command, facts, lacking, self.split.pairs, {"trial": settings})
        report.write(self.folder / PAGE, self.folder / NUMBERS, written)
        report.console(written)
        logger.info("trial: %s", self.folder / PAGE)

    def full(self, way: Way) -> list[str]:
        """The command of a way with all of the user's steps and episodes."""
        ours = way.our_flags(self.pilot, self.options.ours)
        whole = self.pilot.whole(way.host_flags(self.pilot))
        return ["apt-plugin", "run", *whole, *ours] if ours else whole
