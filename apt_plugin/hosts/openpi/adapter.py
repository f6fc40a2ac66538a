"""openpi as the commands see it: the stages of its training scripts, and where the rest is."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.export import refuse_pi
from apt_plugin.hosts.adapter import Command
from apt_plugin.hosts.openpi.checkpoints import last_whole
from apt_plugin.hosts.openpi.names import POLICIES, PRELOAD
from apt_plugin.hosts.openpi.pilot import OpenpiPilot
from apt_plugin.hosts.openpi.probes import CONTENT, PROBES
from apt_plugin.hosts.openpi.programs import SCRIPTS, SERVE, TRAIN, Program, find_program
from apt_plugin.hosts.openpi.schedule import tokens
from apt_plugin.launch import Request, for_acting
from apt_plugin.recipe import Recipe, flatten, from_flat
from apt_plugin.run.budget import Plan
from apt_plugin.run.staged import WANTED, call
from apt_plugin.run.warmup import no_training
from apt_plugin.stages import read_record


class OpenpiStages:
    """`<checkpoint_base_dir>/<config>_apt1/<exp_name>` and `..._apt2/...`; what is about both lies in `..._apt/...`.

    Where these are, the host's own parser knows: a process of its own is asked for the plan of the run, and refuses
    before the first step what either stage would be refused for.
    """

    own_launch = "torchrun ... scripts/train_pytorch.py <config>"
    held_out = ""

    def __init__(self, program: Program, request: Request):
        assert request.recipe is not None
        self.program, self.request = program, request
        self.own = {stage: dict(flags) for stage, flags in request.stage_flags.items()}
        self.prior = self.own["2"].pop("from", None)  # --apt.stage2.from <Stage-1 checkpoint or run>
        if request.recipe.cache and program.script.name != "train.py":
            raise AptError(
                "--apt.cache works with openpi's JAX trainer (scripts/train.py): its PyTorch trainer keeps the whole "
                "model in every process. Drop --apt.cache, or train in JAX."
            )

    def flags(self, stage: str) -> list[str]:
        """The command's, the stage's share of its lengths, and what was written for the stage."""
        return [*self.program.flags, *tokens(self.budget.flags.get(stage, {})), *tokens(self.own[stage])]

    @cached_property
    def recipe(self) -> Recipe:
        return from_flat(flatten(self.plan["recipe"]))

    @cached_property
    def budget(self) -> Plan:
        return Plan(**self.plan["budget"])

    def job(self, do: str, stage: str) -> Command:
        prior = self.prior if self.prior is not None or stage == "1" else self.folder("1")
        job = {"do": do, "stage": int(stage), "recipe": asdict(self.recipe), "prior": prior and str(prior)}
        return self.program.child(job, self.flags(stage))

    @cached_property
    def plan(self) -> dict[str, Any]:
        """Stage -> folder, steps, whether it resumes, and its facts, and the recipe, as the host reads the flags."""
        assert self.request.recipe is not None
        wanted = WANTED[self.request.stage]
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "plan.json"
            job = {
                "do": "plan", "flags": self.program.flags, "own": self.own, "wanted": wanted,
                "share": self.request.share, "recipe": asdict(self.request.recipe), "answer": str(answer),
            }  # fmt: skip
            if status := call(self.program.child(job, self.program.flags, alone=True)):
                sys.exit(status)  # the host's parser, or a refusal of ours, has said why
            return json.loads(answer.read_text())

    def facts_command(self, stages: Sequence[str], answer: Path) -> None:
        """The process that made the plan has looked at everything: importing openpi takes longest."""
        gathered = [self.plan["facts"][stage] for stage in stages]
        if refused := next((one["refused"] for one in gathered if "refused" in one), None):
            raise AptError(refused)
        files.write_json(answer, dict(zip(stages, gathered, strict=True)))

    @property
    def output(self) -> Path:
        return Path(self.plan["output"])

    @property
    def resume(self) -> bool:
        return any(stage["resume"] for stage in self.plan["stages"].values())

    def folder(self, stage: str) -> Path:
        return Path(self.plan["folders"][stage])

    def command(self, stage: str) -> Command:
        return self.job("train", stage)

    def cache_command(self, stage: str, action: str) -> Command:
        return self.job(action, stage)

    def result(self, stage: str) -> Path | None:
        return last_whole(self.folder(stage))

    def record_folder(self, result: Path) -> Path:
        return result / "assets"

    def finished(self, stage: str) -> bool:
        asked, last = self.plan["stages"][stage], self.result(stage)
        return asked["resume"] and last is not None and read_record(last / "assets").steps >= asked["steps"]

    def listen_flags(self) -> Sequence[str]:
        config = next((flag for flag in self.program.flags if not flag.startswith("-")), "")
        return ["--host", "openpi", "--config", config]


class OpenpiAdapter:
    """See `hosts.adapter.Adapter`."""

    name = "openpi"
    policies = POLICIES
    families = ("pi05", "pi0")
    unsupported = MappingProxyType(
        {"expert-only": "openpi says in a config (freeze_filter) what is frozen, and has no flag for it"}
    )
    probes = PROBES
    content = CONTENT

    def recognises_program(self, token: str) -> bool:
        return any(token.endswith(f"scripts/{name}") for name in SCRIPTS)  # a train.py of one's own is no openpi

    def recognises(self, folder: Path) -> bool:
        return (folder / "params").is_dir() or (folder / "assets").is_dir()

    def stages(self, request: Request) -> OpenpiStages | None:
        program = find_program(request.command)
        return OpenpiStages(program, request) if request.recipe is not None and program.trains else None

    def start(self, request: Request) -> Command:
        program = find_program(request.command)
        chosen = for_acting(request) if request.recipe is not None and not program.trains else {}
        if program.script.name == SERVE:
            return program.child({"do": "serve", "acting": chosen}, program.flags)
        if chosen:
            name = next(iter(chosen))
            raise AptError(f"--apt.{name} changes how a checkpoint acts, and {program.script.name} opens none.")
        if program.trains and os.environ.get(PRELOAD):  # configs of one's own, which the script alone does not find
            return program.child({"do": "host"}, program.flags)
        return Command([*(program.before or [sys.executable]), str(program.script), *program.flags])

    def warmup(self, request: Request) -> Command:
        program = find_program(request.command)
        if not program.trains:
            raise no_training(program.script.name, " or ".join(TRAIN))
        return program.child({"do": "warmup", "share": request.frozen_share}, program.flags)

    def pilot(self, command: Sequence[str]) -> OpenpiPilot:
        return OpenpiPilot(find_program(command), command)

    def open_subject(self, folder: Path, device: str | None) -> Any:
        from apt_plugin.hosts.openpi.prove import open_subject

        return open_subject(folder, device)

    def open_listener(self, policy: str, dataset: str, **options: Any) -> Any:
        from apt_plugin.hosts.openpi.listen import open_listener

        return open_listener(policy, dataset, **options)

    def open_base(self, base: str, listener: Any, **options: Any) -> Any:
        from apt_plugin.hosts.openpi.listen import open_base

        return open_base(base, listener, **{k: v for k, v in options.items() if k in ("device", "config")})

    def open_label_sets(self, policy: str, labelled: str, unlabelled: str, **options: Any) -> tuple[Any, Any]:
        from apt_plugin.hosts.openpi.label import open_sets

        return open_sets(policy, labelled, unlabelled, **options)

    def write_labels(self, labels: Any, unlabelled: Any, output: Path) -> str:
        from apt_plugin.hosts.openpi.label import write_labels

        return write_labels(labels, unlabelled, output)

    def bench(self, **fields: Any) -> int:
        from apt_plugin.hosts.openpi.bench import run

        return run(**fields)

    def export(self, folder: Path, output: Path) -> None:
        refuse_pi(folder)

    def notes(self) -> Sequence[str]:
        return []
