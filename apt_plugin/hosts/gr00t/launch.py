"""Isaac GR00T's own commands under the recipe: which processes to run, in which order.

Each stage is a fresh process of the host's script, under torchrun too, in `<output-dir>/stage1` and `/stage2`.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import rules
from apt_plugin.hosts.gr00t.checkpoints import last_whole, openable
from apt_plugin.hosts.gr00t.names import BUILDERS, CHILD, POLICIES
from apt_plugin.hosts.gr00t.programs import Program, Settings, find_program, value_of, with_flags
from apt_plugin.hub import local_folder
from apt_plugin.launch import Request, for_acting, listen_after, make_caches
from apt_plugin.recipe import Recipe, flatten
from apt_plugin.report.run import write_run
from apt_plugin.stages import read_record


def run(request: Request) -> int:
    """Carry out `apt-plugin run` for Isaac GR00T; returns the exit status."""
    program = find_program(request.command)
    if program is None:
        raise AptError(
            f"No GR00T program in {' '.join(request.command)!r}. Write e.g. gr00t/experiment/launch_finetune.py ..., "
            "or -m gr00t.experiment.launch_finetune ..."
        )
    if request.recipe is None:
        return subprocess.call(_as_command(request.command))
    if "--help" in program.flags or "-h" in program.flags:
        return subprocess.call(program.child(["--recipe", "apt", *program.flags]))
    if not program.trains:
        flags, chosen = acting(program.flags, request)
        ours = [f"--apt.{name}={value}" for name, value in chosen.items()]
        return subprocess.call(program.child(["--recipe", "apt", *ours, *flags]))
    return Training(program, request).run()


def acting(flags: Sequence[str], request: Request) -> tuple[list[str], dict[str, object]]:
    """A program that trains nothing: its flags with the checkpoint found, and the recipe fields to act with.

    Raises:
        AptError: a flag of ours that it cannot follow.
    """
    chosen, named = for_acting(request), value_of(flags, "model-path")
    if named is None or not (Path(named).is_dir() or chosen):
        if chosen:
            raise AptError(
                f"--apt.{next(iter(chosen))} changes how a checkpoint acts, and this command opens none: write it "
                "where --model-path is."
            )
        return list(flags), chosen
    folder = openable(local_folder(named))
    if chosen and files.read_json(folder / "config.json").get("model_type") != next(iter(POLICIES.values())):
        raise AptError(
            f"--apt.{next(iter(chosen))} needs the gated pathway of a Stage-2 checkpoint; {folder} is a stock one."
        )
    if str(folder) != named:
        logging.info("APT: --model-path %s: the newest whole checkpoint there is %s", named, folder)
        flags = with_flags(flags, {"model-path": str(folder)})
    return list(flags), chosen


def for_cache(command: Sequence[str], action: str) -> list[str]:
    """The same processes with the same flags, making or checking the cache in place of training."""
    place = list(command).index(CHILD) + 1
    marker = next(name for name, does in BUILDERS.items() if does == action)
    return [*command[:place], marker, *command[place:]]


def cache(request: Request, action: str) -> int:
    """Carry out `apt-plugin cache build|verify <one of GR00T's training commands>`."""
    program = find_program(request.command)
    if program is None or not program.trains or request.recipe is None:
        raise AptError(
            f"Write the training command: apt-plugin cache {action} gr00t/experiment/launch_finetune.py ... "
            "--recipe apt --apt.cache DIR."
        )
    return Training(program, request).cache(action)


def _as_command(command: Sequence[str]) -> list[str]:
    """The host's command untouched; a script is no program by itself."""
    return [sys.executable, *command] if command[0].endswith(".py") or command[0] == "-m" else list(command)


class Training:
    """The stages of one training run."""

    def __init__(self, program: Program, request: Request):
        assert request.recipe is not None
        self.program, self.request, self.recipe = program, request, request.recipe
        rules.check(request.recipe)
        self.settings = Settings(program.module, program.flags)
        self.output, self.resume = self.settings.output(), self.settings.resumes()
        if "WORLD_SIZE" in os.environ and request.stage == "both":
            raise AptError(
                "Both stages cannot share one distributed launch. Put the launcher inside: apt-plugin run torchrun ... "
                "gr00t/experiment/launch_finetune.py ... --recipe apt, or name one stage: --apt.stage 1."
            )

    def run(self) -> int:
        wanted = {"1": ["1"], "2": ["2"], "both": ["1", "2"]}[self.request.stage]
        for stage in wanted:
            if self.finished(stage):
                logging.info("APT: Stage %s is finished in %s, going on.", stage, self.folder(stage))
                continue
            if stage == "2" and len(wanted) == 2 and self.request.prove and (status := self.prove()):
                return status
            command = self.command(stage)
            if self.request.caches(stage) and (status := subprocess.call(for_cache(command, "build"))):
                return status
            logging.info("APT: Stage %s: %s", stage, " ".join(command))
            if status := subprocess.call(command):
                return status
        found = {stage: last_whole(self.folder(str(stage))) for stage in (1, 2)}
        if found[2] is not None and "2" in wanted and self.request.listen:
            self.listen(found[2])
        write_run(self.output, {stage: read_record(folder) for stage, folder in found.items() if folder is not None})
        return 0

    def cache(self, action: str) -> int:
        """`apt-plugin cache build|verify`: every stage whose cache can be made now."""
        if not self.recipe.cache:
            raise AptError(f"Which cache? Write --apt.cache DIR behind apt-plugin cache {action} ... --recipe apt.")

        def make(stage: str) -> int:
            return subprocess.call(for_cache(self.command(stage), action))

        return make_caches(self.request, last_whole(self.folder("1")) is not None, make)

    def listen(self, checkpoint: Path) -> None:
        """On the (first) data set that Stage 2 was trained on."""
        path, tag = self.of("2").data()
        more = ["--config", tag] if tag else []
        listen_after(self.request.listen, checkpoint, self.output, "--host", "gr00t", "--dataset", path, *more)

    def of(self, stage: str) -> Settings:
        """The settings of one stage: the command's, and the stage's own in front of them."""
        return Settings(self.program.module, with_flags(self.program.flags, self.request.stage_flags[stage]))

    def folder(self, stage: str) -> Path:
        """Where the host writes a stage: it puts a named experiment into a folder of its own."""
        return self.output / f"stage{stage}" / (self.of(stage).get("experiment-name") or "")

    def command(self, stage: str) -> list[str]:
        name, own = self.settings.flag, self.request.stage_flags[stage]
        flags = with_flags(self.program.flags, {name("output-dir"): str(self.output / f"stage{stage}")})
        goes_on = self.resume and last_whole(self.folder(stage)) is not None
        flags = with_flags(flags, {name("resume-from-checkpoint"): str(goes_on).lower()})
        if stage == "2":
            own = {key: value for key, value in own.items() if key.replace("_", "-") != name("base")}
            prior = value_of(with_flags([], self.request.stage_flags["2"]), name("base"))
            if prior is None and self.request.stage == "2" and last_whole(self.folder("1")) is None:
                prior = self.settings.get("base")
            flags = with_flags(flags, {name("base"): str(self._prior(prior))})
        flags = with_flags(flags, own)
        return self.program.child([*flags, "--recipe", "apt", "--apt.stage", stage, *recipe_flags(self.recipe)])

    def _prior(self, named: str | None) -> Path:
        """The Stage-1 checkpoint: the one named (or the newest of the run named), or this run's own."""
        run = local_folder(named) if named else self.folder("1")
        if (run / "apt.json").is_file() and (run / "processor_config.json").is_file():
            return run
        found = last_whole(run) or last_whole(run / "stage1")
        if found is None:
            raise AptError(
                f"Stage 2 starts from a Stage-1 result, and {run} holds none. Run --apt.stage both, or name one: "
                f"--{self.settings.flag('base')} <Stage-1 run>/checkpoint-N."
            )
        return found

    def finished(self, stage: str) -> bool:
        """Whether this stage already took all its steps (only a resumed run looks)."""
        last = last_whole(self.folder(stage)) if self.resume else None
        if last is None:
            return False
        return int(files.read_json(last / "trainer_state.json")["global_step"]) >= self.of(stage).steps()

    def prove(self) -> int:
        """The contracts on Stage 1's result, in a process of its own; Stage 2 starts only when they hold."""
        target = str(self._prior(None))
        command = [sys.executable, "-m", "apt_plugin", "prove", target, "--json", str(self.output / "proofs.json")]
        logging.info("APT: proofs: %s", " ".join(command))
        return subprocess.call(command)


def recipe_flags(recipe: Recipe) -> list[str]:
    """Every field of the recipe as a flag: a stage never inherits one by accident."""
    out = []
    for name, value in flatten(asdict(recipe)).items():
        if value != "":
            out.append(f"--apt.{name}={json.dumps(value) if isinstance(value, list | bool) else value}")
    return out
