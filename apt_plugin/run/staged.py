"""One run of the recipe: Stage 1, its proofs, the switch, Stage 2, listening, one report. The same for every host.

Each stage is a fresh process of the host's own script: nothing of Stage 1 stays in memory, a distributed engine is set
up once per stage, and either stage is resumed by the host's own means.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from apt_plugin import files
from apt_plugin.cache.request import wanted as reads_cache
from apt_plugin.errors import AptError
from apt_plugin.hosts.adapter import QUIET, Adapter, Command, Stages
from apt_plugin.launch import Request, check_named
from apt_plugin.recipe_help import PRESETS_FOUND, ours
from apt_plugin.report.run import write_run
from apt_plugin.run import child, preflight, room
from apt_plugin.run.lock import only_one
from apt_plugin.run.resumed import check_prior, check_recipe, held
from apt_plugin.run.warmup import ONLY_LOOK
from apt_plugin.stages import PROOFS, Record, read_record

logger = logging.getLogger(__name__)
WANTED = {"1": ("1",), "2": ("2",), "both": ("1", "2")}


def call(command: Command) -> int:
    """Run a process to its end, signals passed on; its exit status."""
    return child.call(command.argv, {**os.environ, **command.env})


class Staged:
    """A training command of one host, carried out.

    Args:
        run: starts a process and waits for it.
    """

    def __init__(self, host: Stages, request: Request, run: Callable[[Command], int] | None = None):
        self.host, self.request, self._run = host, request, run or call
        self.wanted = WANTED[request.stage]
        self._facts: Mapping[str, preflight.Facts] = {}
        if "WORLD_SIZE" in os.environ and len(self.wanted) == 2:
            raise AptError(
                "Both stages cannot share one distributed launch. Put the launcher inside: apt-plugin run "
                f"{host.own_launch} ... --recipe apt, or name one stage: --apt.stage 1."
            )

    def train(self) -> int:
        """Everything; the exit status of the first process that failed, or 0.

        Raises:
            AptError: another run has this folder, or see the host's `command`.
        """
        with only_one(self.host.output):
            return self._preflight() or self._train()

    def look(self) -> tuple[int, Mapping[str, preflight.Facts]]:
        """(exit status of the child that looked, the facts of the stages that are still to run).

        Raises:
            AptError: the child told nothing; a run that goes on by another recipe or on another prior.
        """
        if self.host.resume:
            self._check_resumed()
        stages = [stage for stage in self.wanted if not self.host.finished(stage)]
        if not stages:
            return 0, {}
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "facts.json"
            command = self.host.facts_command(stages, answer)
            status = 0 if command is None else self._run(command)
            return status, {} if status else self._asked(preflight.read(answer))

    def _asked(self, facts: Mapping[str, preflight.Facts]) -> Mapping[str, preflight.Facts]:
        """Without what this run does not do: the proofs stand between Stage 1 and Stage 2."""
        proves = self.request.prove and len(self.wanted) == 2
        return {s: each if proves and s == "1" else replace(each, proof_memory=None) for s, each in facts.items()}

    def _check_resumed(self) -> None:
        found = {stage: folder for stage in ("1", "2") if (folder := self._record_folder(stage)) is not None}
        for stage in set(self.wanted) & found.keys():
            record = read_record(found[stage])
            check_recipe(self.host.recipe, record, self.request.given, found[stage])
            check_prior(record, found.get("1"), found[stage])

    def _record_folder(self, stage: str) -> Path | None:
        result = self.host.result(stage)
        return None if result is None else self.host.record_folder(result)

    def _preflight(self) -> int:
        """Nothing that can be known before the first step stops a run later."""
        if os.environ.get("RANK", "0") != "0":  # one process looks for all
            return 0
        status, self._facts = self.look()
        return int(preflight.say(self._facts)) or status

    def _train(self) -> int:
        for line in (PRESETS_FOUND.get(self.request.preset), self.host.budget.says):
            if line:
                logger.info("APT: %s", line)
        for stage in self.wanted:
            if self.host.finished(stage):
                logger.info("APT: Stage %s is finished in %s, going on.", stage, self.host.result(stage))
            elif status := self._stage(stage):
                return status
        if "2" in self.wanted:
            self._listen()
        write_run(self.host.output, self.records(), self.host.held_out)
        return 0

    def _stage(self, stage: str) -> int:
        if stage == "2" and len(self.wanted) == 2 and self.request.prove and (status := self._prove()):
            return status
        command = self.host.command(stage)
        if self._caches(stage) and (status := self._run(self.host.cache_command(stage, "build"))):
            return status
        if stage == "1" and self._caches("1") and "2" in self.wanted and self._caches("2"):
            room.check_next(self.host.recipe, self._facts.get("1"), self._facts.get("2"))
        self._begin(stage)
        logger.info("APT: Stage %s: %s", stage, command)
        return self._run(command)

    def _caches(self, stage: str) -> bool:
        return reads_cache(self.host.recipe, int(stage))

    def _begin(self, stage: str) -> None:
        """A resumed stage that died before its first whole checkpoint starts anew: hosts refuse the folder it left."""
        folder = self.host.folder(stage)
        if self.host.resume and folder.is_dir() and self.host.result(stage) is None:
            aside = files.set_aside(folder)
            logger.warning(
                "APT: %s holds no whole checkpoint: Stage %s starts anew; it is now %s.", folder, stage, aside
            )

    def records(self) -> dict[int, Record]:
        """Stage -> the record of its newest whole checkpoint."""
        found = {stage: self._record_folder(stage) for stage in ("1", "2")}
        return {int(stage): read_record(folder) for stage, folder in found.items() if folder is not None}

    def _prove(self) -> int:
        """The contracts on Stage 1's result, in a process of its own; Stage 2 starts only when they hold."""
        prior = self.host.result("1")
        if prior is None:
            raise AptError(f"Stage 1 ended and left no whole checkpoint under {self.host.output}; see its log above.")
        proofs = self.host.output / PROOFS
        if held(proofs, self.host.record_folder(prior)):
            logger.info("APT: the proofs in %s are of this Stage 1 and this plugin: not repeated.", proofs)
            return 0
        return self._ours("proofs", "prove", str(prior), "--json", str(proofs))

    def _listen(self) -> None:
        """Does the result listen? An answer that cannot be had does not fail a finished run."""
        policy = self.host.result("2")
        if policy is None or not self.request.listen:
            return
        flags = ["--policy", str(policy), "--output", str(self.host.output), "--frames", str(self.request.listen)]
        if self._ours("listen", "listen", *flags, *self.host.listen_flags()):
            logger.warning("APT: listen could not be answered (see above); training itself is finished and whole.")

    def _ours(self, what: str, *arguments: str) -> int:
        command = Command([sys.executable, "-m", "apt_plugin", *arguments], QUIET)
        logger.info("APT: %s: %s", what, command)
        return self._run(command)

    def cache(self, action: str) -> int:
        """`apt-plugin cache build|verify` of every stage whose cache can be made now; the worst exit status."""
        if self.request.recipe is None or not self.request.recipe.cache:
            raise AptError(f"Which cache? Write --apt.cache DIR behind apt-plugin cache {action} ... --recipe apt.")
        worst = 0
        for stage in self.wanted:
            if not self._caches(stage):
                logger.info("APT: Stage %s trains the VLM and reads no cache.", stage)
            elif stage == "2" and len(self.wanted) == 2 and self.host.result("1") is None:
                logger.info("APT: Stage 2's cache starts from Stage 1's result; the run makes it between the stages.")
            else:
                worst = max(worst, abs(self._run(self.host.cache_command(stage, action))))
        return worst


def carry_out(host: Adapter, request: Request) -> int:
    """`apt-plugin run`: a training command as stages, any other program of the host as it is; the exit status."""
    if request.recipe is not None and {"-h", "--help"} & set(request.command):
        print(f"{ours()}\n\nFlags of the host:\n", flush=True)
    if request.frozen_share is not None:
        return call(host.warmup(request))
    stages = _stages(host, request)
    return call(host.start(request)) if stages is None else Staged(stages, request).train()


def check(host: Adapter, request: Request) -> int:
    """`apt-plugin check <training command>`: the pre-flight by itself; exit status 1 where a run would be stopped.

    Raises:
        AptError: the command trains nothing by the recipe.
    """
    status, facts = _looked(host, request)
    findings = preflight.judge(facts)
    if not status:
        print(preflight.table(facts, findings) or "Nothing is left to run.")
    return int(bool(status) or any(finding.level == "error" for finding in findings))


def _looked(host: Adapter, request: Request) -> tuple[int, Mapping[str, preflight.Facts]]:
    if request.frozen_share is not None:
        with tempfile.TemporaryDirectory() as folder:
            answer, command = Path(folder) / "facts.json", host.warmup(request)
            status = call(replace(command, env={**command.env, ONLY_LOOK: str(answer)}))
            return status, {} if status else preflight.read(answer)
    stages = _stages(host, request)
    if stages is None:
        raise AptError(f"Write a training command of {host.name} with its recipe: apt-plugin check ... --recipe apt.")
    return Staged(stages, request).look()


def make_cache(host: Adapter, request: Request, action: str) -> int:
    """`apt-plugin cache build|verify <training command>`; the exit status.

    Raises:
        AptError: the command trains nothing.
    """
    stages = _stages(host, request)
    if stages is None:
        raise AptError(
            f"Write a training command of {host.name} with its recipe: apt-plugin cache {action} ... --recipe apt "
            "--apt.cache DIR."
        )
    return Staged(stages, request).cache(action)


def _stages(host: Adapter, request: Request) -> Stages | None:
    stages = host.stages(request)
    if stages is not None:
        check_named(request)
    return stages


def folder_of(output: Path, stage: str) -> Path:
    """Where a stage's own run lies, on hosts that take an output folder."""
    return output / f"stage{stage}"
