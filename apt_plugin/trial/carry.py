"""A trial from its first look to its page. Nothing is trained before everything that can be known is looked at."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from apt_plugin import files, report, vlm
from apt_plugin.errors import AptError
from apt_plugin.hosts.adapter import QUIET, Adapter, Command
from apt_plugin.launch import split
from apt_plugin.run import lock, preflight
from apt_plugin.run.staged import Staged, call, carry_out
from apt_plugin.trial import answer, held_out, pace, pages, pick, plan, progress, runs
from apt_plugin.trial.options import Options, check_ours
from apt_plugin.trial.ways import WAYS, Way, check_cache, fitting

logger = logging.getLogger(__name__)
PAGE, NUMBERS = "trial.html", "trial.json"
CHILD = "apt_plugin.trial_command"


class Trial:
    """One trial of a host's training command.

    Args:
        run: starts a process and waits for it. train: carries out a command line of the host with flags of ours.
    """

    def __init__(
        self, host: Adapter, command: Sequence[str], options: Options, run: Callable[[Command], int] | None = None
    ):
        if "WORLD_SIZE" in os.environ:
            raise AptError("A trial starts several runs. Put the launcher inside: apt-plugin trial torchrun ... train")
        self.host, self.command, self.options, self._run = host, list(command), options, run or call
        self.pilot = host.pilot(command)
        check_ours(
            split([*command, *WAYS[-1].named(options.ours)], host.name).given, ", in the file that --apt.config names"
        )
        least = None if options.hours is None else pace.FEWEST  # hours say later how many there are
        self.same = pace.share(options.budget, self.pilot.steps, self.pilot.steps_flag, least)
        self.steps: Mapping[str, int] = {}  # way -> steps of its runs
        self.folder = options.output.absolute()
        self.cache = self.folder / plan.CACHE if options.cache else None
        self.expected: Mapping[str, float] = {}  # way -> seconds of a run, where they were measured
        self._began = time.monotonic()

    def carry(self) -> int:
        """Everything; the exit status: 0, 1 where a way failed, or that of a process or signal that ended it.

        Raises:
            AptError: data that cannot teach, nothing to hold out, a way that does not fit, another trial's folder.
        """
        self.ways, self.lacking = fitting(self.host, self.command, self.options.arms)
        if self.options.cache:
            check_cache(self.host, self.command, self.options.ours, self.ways, self.pilot)
        with lock.in_turn(self.folder, "trial: another process looks at the command and the data; waiting for it."):
            status = self._look()
        return status or self._carry()

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
        self.steps = {way.name: self.same for way in self.ways}
        if begun:  # whatever was measured is still there, and costs nothing
            if opts.measured and (status := self._measure()):
                return status
            plan.check(self.folder, self._plan())
        parts = (f"{len(self.split.train)} episodes are trained on", f"{len(self.split.asked)} are held out")
        logger.info("trial: %s.", ", ".join(parts))
        if begun and all((run.folder(self.folder) / runs.ANSWER).is_file() for run in self._runs()):
            return 0
        self.pilot.short({}, [], self.folder / "check", self.same, opts.seeds - 1, 1)  # a host without seeds
        status = self._preflight()
        if not status and opts.measured and not begun:
            status = self._measure()
        if not status:
            _ = self._only  # one process makes the copy
            # Not before: a command that was refused may be mended, and is then another one
            plan.settle(self.folder, self._plan())
            logger.info("trial: %s steps a run.", pages.lengths(self.steps))
            if (left := pace.points(min(self.steps.values()), opts.points)) < opts.points:
                said = "trial: so few steps leave %d checkpoints at equal distances, not the %d of --trial.points."
                logger.warning(said, left, opts.points)
        return status

    def _measure(self) -> int:
        """Steps by measured seconds; a way that cannot be measured is left out."""
        folder, opts = self.folder / plan.PACE, self.options
        spent = self._looked(folder / "looked.json")

        def measured(way: Way, steps: int) -> runs.Short:
            title = f"{way.title}, measured"
            return runs.Short(way.name, steps, title, partial(self._train, way, 0, steps=steps), self._asked_once)

        two = {way.name: [measured(way, steps) for steps in pace.LENGTHS] for way in self.ways}
        quick: dict[str, float] = {}
        for name, each in two.items():
            status = runs.carry(each, folder)
            if status in runs.ENDED:
                return status
            if not status and opts.hours is not None:
                quick[name] = runs.seconds(each[0], folder)
                pace.check(opts.hours, quick, len(two), opts.seeds)
        why = {name: next(filter(None, (runs.failed(run, folder) for run in each)), "") for name, each in two.items()}
        self.lacking |= {name: said for name, said in why.items() if said}
        self.ways = [way for way in self.ways if not why[way.name]]
        if not self.ways:
            raise AptError("No way of training could be measured; its own words stand above.")
        took = {way.name: [runs.seconds(run, folder) for run in two[way.name]] for way in self.ways}
        paces = {name: pace.of((few, many)) for name, (few, many) in took.items()}
        once = max(runs.asking(run, folder) for way in self.ways for run in two[way.name])
        spent += once + sum(sum(each) for each in took.values())
        asking = once * opts.points
        self.steps = pace.steps(paces, opts.equal, opts.seeds, self.pilot.steps, opts.budget, opts.hours, spent, asking)
        self.expected = {n: each.start + each.step * self.steps[n] + asking for n, each in paces.items()}
        return 0

    def _looked(self, path: Path) -> float:
        """Seconds before anything was measured, the same when the trial goes on."""
        if not path.is_file() and not (self.folder / plan.PLAN).is_file():
            files.make_folder(path.parent)
            files.write_json(path, {"seconds": time.monotonic() - self._began})
        return float(files.read_json(path)["seconds"]) if path.is_file() else 0.0

    def _asked_once(self, folder: Path) -> int:
        """Of the runs that are only measured one is asked, where hours must hold that, too."""
        if self.options.hours is not None and not (self.folder / plan.ASKED).is_file():
            return self._ask(folder)
        files.write_json(folder / runs.ANSWER, {})
        return 0

    def _preflight(self) -> int:
        """Of the way that asks most, of those with a pre-flight: the last of the recipe's."""
        ours = [way for way in self.ways if way.recipe == WAYS[-1].recipe]
        if not ours:
            return 0
        request = split(self._short(ours[-1], self.folder / "check", 0, self.same), self.host.name)
        stages = self.host.stages(request)
        assert stages is not None
        status, facts = Staged(stages, request, self._run).look()
        return status or int(preflight.say(facts))

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
            "command": self.command, "our_flags": [list(pair) for pair in opts.ours],
            "steps": self._told_steps,
            "number_of_frames": opts.frames, "train": self.split.train, "held_out": self.split.held_out,
            "pairs": self.split.pairs,
        }  # fmt: skip

    @property
    def _told_steps(self) -> Any:
        """One number where all ways have as many: ways may be added to such a trial later."""
        return dict(self.steps) if self.options.measured else self.same

    def _carry(self) -> int:
        every = self._runs()
        status = runs.carry(every, self.folder, self.options.keep, partial(progress.show, every, self.folder))
        if status not in runs.ENDED:
            with lock.in_turn(self.folder, "trial: another process writes the page; waiting for it."):
                self._write()
                if self.cache is not None and not status and not self.options.keep:
                    shutil.rmtree(self.cache, ignore_errors=True)
        return status

    def _runs(self) -> list[runs.Short]:
        several = self.options.seeds > 1
        return [
            runs.Short(
                way.name, seed, way.title + (f", run {seed + 1} of {self.options.seeds}" if several else ""),
                partial(self._train, way, seed), self._ask, self.expected.get(way.name),
            )
            for seed in range(self.options.seeds)
            for way in self.ways
        ]  # fmt: skip

    def _short(self, way: Way, run: Path, seed: int, steps: int) -> list[str]:
        flags, ours = way.host_flags(self.pilot), way.short_flags(self.pilot, self.options.ours, self.cache)
        points = 1 if run.parent.parent == self.folder / plan.PACE else self.options.points
        return self.pilot.short({**self._only, **flags}, ours, run, steps, seed, min(points, steps))

    @cached_property
    def _only(self) -> Mapping[str, str]:
        return self.pilot.only(self.split.train, self.folder / plan.EPISODES)

    def _train(self, way: Way, seed: int, run: Path, steps: int = 0) -> int:
        argv = self._short(way, run, seed, steps or self.steps[way.name])
        logger.info("trial: %s: %s", way.title, " ".join(argv))
        return carry_out(self.host, split(argv, self.host.name))

    def _ask(self, folder: Path) -> int:
        """The first that is asked says under which words all are: meanwhile no other is."""
        with ExitStack() as stack:
            if not (self.folder / plan.ASKED).is_file():
                said = "trial: another process asks the first policy; waiting for it."
                stack.enter_context(lock.in_turn(self.folder / plan.ASKED, said))
            return self._asks(folder)

    def _asks(self, folder: Path) -> int:
        found = self.pilot.policies(folder / runs.RUN)
        if not found:
            raise AptError("its training ended and left no checkpoint.")
        (last, policy), job = found[-1], {"episodes": self.split.asked, "frames": self.options.frames}
        job |= {"base": self.pilot.base, "asked": str(self.folder / plan.ASKED)}
        for step, earlier in found[:-1]:
            place = folder / f"{runs.POINT}{last - step}"
            if (place / runs.ANSWER).is_file():
                continue
            files.make_folder(place)
            if status := self._ours("ask", place, job | {"policy": str(earlier)}):
                return status
        return self._ours("ask", folder, job | {"policy": str(policy)})

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
                curve = runs.points(mine[0], self.folder, self.steps[way.name])
                tried.append(pick.Tried(way, [answer.read(value) for value in said], spent, curve))
            else:
                lacking[way.name] = next(filter(None, (runs.failed(run, self.folder) for run in mine)), "")
        taken = pick.pick(tried) if tried else None
        command = "" if taken is None else pages.shell(self.full(taken.way))
        facts = {
            "host": self.host.name, "your steps": f"{self.pilot.steps:,}", "steps of a run": pages.lengths(self.steps),
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
