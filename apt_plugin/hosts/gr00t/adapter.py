"""Isaac GR00T as the commands see it: the stages of its training commands, and where the rest is."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.adapter import QUIET, Command
from apt_plugin.hosts.gr00t import rules
from apt_plugin.hosts.gr00t.checkpoints import last_whole, openable
from apt_plugin.hosts.gr00t.names import BUILDERS, CHECK, CHILD, POLICIES
from apt_plugin.hosts.gr00t.pilot import GrootPilot
from apt_plugin.hosts.gr00t.probes import CONTENT, PROBES
from apt_plugin.hosts.gr00t.programs import TRAINING, Program, Settings, find_program, is_program, switched
from apt_plugin.hub import local_folder
from apt_plugin.launch import Request, for_acting
from apt_plugin.recipe import HOST, Recipe, as_text
from apt_plugin.run.budget import Plan, count, plan
from apt_plugin.run.facts import JOB
from apt_plugin.run.staged import WANTED, folder_of
from apt_plugin.run.warmup import FROZEN_SHARE, no_training, nothing_trains
from apt_plugin.vlm import resolved

logger = logging.getLogger(__name__)


class GrootStages:
    """The stages of one of the host's training commands, in `<output-dir>/stage1` and `/stage2`."""

    own_launch = "torchrun ... gr00t/experiment/launch_finetune.py"
    held_out = ""

    def __init__(self, program: Program, request: Request):
        assert request.recipe is not None
        self.program, self.request = program, request
        rules.check(request.recipe)
        self.settings = Settings(program.module, program.flags)
        self.output, self.resume = self.settings.output(), self.settings.resumes()

    def of(self, stage: str) -> Settings:
        """The settings of one stage: the command's, and the stage's own in front of them."""
        flags = switched(self.program.flags).with_(self.request.stage_flags[stage])
        return Settings(self.program.module, flags.tokens())

    @cached_property
    def recipe(self) -> Recipe:
        assert self.request.recipe is not None
        second = self.of("2")
        on = map(second.switched_on, rules.SWITCHES)
        return resolved(self.request.recipe, lambda: rules.trained(*on, base=second.get("base")))

    @cached_property
    def budget(self) -> Plan:
        """The warm-up is a ratio here, unless somebody wrote steps for it (launch_train)."""
        flag = self.settings.flag("warmup-steps")
        written = count(flag, self.settings.get("warmup-steps") or 0)
        return plan(
            self.settings.steps(),
            flag=self.settings.flag("max-steps"),
            schedule={flag: written} if written else {},
            share=self.request.share,
            wanted=WANTED[self.request.stage],
            own={stage: self._own(stage) for stage in self.request.stage_flags},
        )

    def _own(self, stage: str) -> dict[str, str]:
        """What was written for a stage alone, in a config file of its own too, unless a flag of the command says it."""
        own = {name.replace("_", "-"): value for name, value in self.request.stage_flags[stage].items()}
        flag = self.settings.flag("max-steps")
        if "load-config-path" in own and switched(self.program.flags).get(flag) is None:
            steps = self.of(stage).own_file("max-steps")
            own = {**({} if steps is None else {flag: steps}), **own}
        return own

    def folder(self, stage: str) -> Path:
        """Where the host writes a stage: it puts a named experiment into a folder of its own."""
        return folder_of(self.output, stage) / (self.of(stage).get("experiment-name") or "")

    def facts_command(self, stages: Sequence[str], answer: Path) -> Command:
        job = {
            "answer": str(answer), "output": str(self.output), "module": self.program.module,
            "recipe": asdict(self.recipe),
            "flags": {s: switched(self.of(s).flags).with_(self.budget.flags.get(s, {})).tokens() for s in stages},
        }  # fmt: skip
        return Command([sys.executable, "-m", CHILD, CHECK], {**QUIET, JOB: json.dumps(job)})

    def command(self, stage: str) -> Command:
        name, own = self.settings.flag, self.request.stage_flags[stage]
        goes_on = self.resume and self.result(stage) is not None
        flags = switched(self.program.flags).with_(
            {
                name("output-dir"): str(folder_of(self.output, stage)),
                name("resume-from-checkpoint"): str(goes_on).lower(),
            }
        )
        if stage == "2":
            prior = switched([]).with_(own).get(name("base"))
            own = {key: value for key, value in own.items() if key.replace("_", "-") != name("base")}
            if prior is None and self.request.stage == "2" and self.result("1") is None:
                prior = self.settings.get("base")
            flags = flags.with_({name("base"): str(self._prior(prior))})
        ours = [f"--apt.{field}={text}" for field, text in as_text(self.recipe).items() if text]
        flags = flags.with_(self.budget.flags.get(stage, {})).with_(own)
        if self.request.recipe is not None and self.request.recipe.vlm == HOST:  # the recipe has them now
            on = [switch for switch in rules.SWITCHES if self.of(stage).switched_on(switch)]
            flags = flags.with_({self.settings.switch(switch): "false" for switch in on})
        tokens = flags.tokens()
        return Command(self.program.child([*tokens, "--recipe", "apt", "--apt.stage", stage, *ours]))

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

    def cache_command(self, stage: str, action: str) -> Command:
        """The same processes with the same flags, making or checking the cache in place of training."""
        command = list(self.command(stage).argv)
        place = command.index(CHILD) + 1
        marker = next(name for name, does in BUILDERS.items() if does == action)
        return Command([*command[:place], marker, *command[place:]])

    def result(self, stage: str) -> Path | None:
        return last_whole(self.folder(stage))

    def record_folder(self, result: Path) -> Path:
        return result

    def finished(self, stage: str) -> bool:
        last = self.result(stage) if self.resume else None
        if last is None:
            return False
        return int(files.read_json(last / "trainer_state.json")["global_step"]) >= self.budget.steps[stage]

    def listen_flags(self) -> Sequence[str]:
        """On the (first) data set that Stage 2 was trained on."""
        path, tag = self.of("2").data()
        return ["--host", "gr00t", "--dataset", path, *(["--config", tag] if tag else [])]


class GrootAdapter:
    """See `hosts.adapter.Adapter`."""

    name = "gr00t"
    policies = POLICIES
    families = ("groot",)
    unsupported = MappingProxyType({})
    probes = PROBES
    content = CONTENT

    def recognises_program(self, token: str) -> bool:
        return is_program(token)

    def recognises(self, folder: Path) -> bool:
        path = folder / "config.json"
        kind = str(files.read_json(path).get("model_type", "")).lower() if path.is_file() else ""
        return path.is_file() and ("gr00t" in kind or (folder / "experiment_cfg").is_dir())

    def stages(self, request: Request) -> GrootStages | None:
        program = _program(request)
        trains = request.recipe is not None and program.trains and not _help(program)
        return GrootStages(program, request) if trains else None

    def start(self, request: Request) -> Command:
        program, command = _program(request), list(request.command)
        if request.recipe is None:  # the host's command untouched; a script is no program by itself
            return Command([sys.executable, *command] if command[0].endswith(".py") or command[0] == "-m" else command)
        if _help(program):
            return Command(program.child(["--recipe", "apt", *program.flags]))
        flags, chosen = acting(program.flags, request)
        ours = [f"--apt.{name}={value}" for name, value in chosen.items()]
        return Command(program.child(["--recipe", "apt", *ours, *flags]))

    def warmup(self, request: Request) -> Command:
        program = _program(request)
        if not program.trains:
            raise no_training(program.module, " or ".join(TRAINING))
        settings = Settings(program.module, program.flags)
        if not any(map(settings.switched_on, rules.SWITCHES)) and not rules.top_layers(settings.get("base")):
            raise nothing_trains(" or ".join(f"--{settings.switch(name)}" for name in rules.SWITCHES))
        return Command(program.child(program.flags), {FROZEN_SHARE: str(request.frozen_share)})

    def pilot(self, command: Sequence[str]) -> GrootPilot:
        return GrootPilot(_program(Request(list(command))), command)

    def open_subject(self, folder: Path, device: str | None) -> Any:
        from apt_plugin.hosts.gr00t.prove import open_subject

        return open_subject(folder, device)

    def open_listener(self, policy: str, dataset: str, **options: Any) -> Any:
        from apt_plugin.hosts.gr00t.listen import open_listener

        return open_listener(policy, dataset, **options)

    def open_base(self, base: str, listener: Any, **options: Any) -> Any:
        from apt_plugin.hosts.gr00t.listen import open_base

        return open_base(base, listener, options.get("device", ""))

    def open_label_sets(self, policy: str, labelled: str, unlabelled: str, **options: Any) -> tuple[Any, Any]:
        from apt_plugin.hosts.gr00t.label import open_sets

        return open_sets(policy, labelled, unlabelled, **options)

    def write_labels(self, labels: Any, unlabelled: Any, output: Path) -> str:
        from apt_plugin.hosts.gr00t.label import write_labels

        return write_labels(labels, unlabelled, output)

    def bench(self, **fields: Any) -> int:
        from apt_plugin.hosts.gr00t.bench import run

        del fields["family"]  # it has one
        return run(**fields)

    def export(self, folder: Path, output: Path) -> None:
        from apt_plugin.hosts.gr00t.export import export

        export(folder, output)

    def notes(self) -> Sequence[str]:
        return []


def acting(flags: Sequence[str], request: Request) -> tuple[list[str], dict[str, object]]:
    """A program that trains nothing: its flags with the checkpoint found, and the recipe fields to act with.

    Raises:
        AptError: a flag of ours that it cannot follow.
    """
    chosen, named = for_acting(request), switched(flags).get("model-path")
    if named is None or not (Path(named).is_dir() or chosen):
        if chosen:
            raise AptError(
                f"--apt.{next(iter(chosen))} changes how a checkpoint acts, and this command opens none: write it "
                "where --model-path is."
            )
        return list(flags), chosen
    folder = openable(local_folder(named))
    if str(folder) != named:
        logger.info("APT: --model-path %s: the newest whole checkpoint there is %s", named, folder)
        flags = switched(flags).with_({"model-path": str(folder)}).tokens()
    return list(flags), chosen


def of_the_host(flags: Sequence[str]) -> bool:
    """Whether the checkpoint that these flags name is a stock one."""
    folder = Path(switched(flags).get("model-path") or "")
    kind = files.read_json(folder / "config.json").get("model_type") if (folder / "config.json").is_file() else None
    return kind != next(iter(POLICIES.values()))


def _program(request: Request) -> Program:
    program = find_program(request.command)
    if program is None:
        raise AptError(
            f"No GR00T program in {' '.join(request.command)!r}. Write e.g. gr00t/experiment/launch_finetune.py ..., "
            "or -m gr00t.experiment.launch_finetune ..."
        )
    return program


def _help(program: Program) -> bool:
    return "--help" in program.flags or "-h" in program.flags
