"""openpi's own commands under the recipe: which processes to run, in which order.

Each stage is a fresh process of the host's script, so device memory and a distributed engine belong to one stage.
The host parses its own flags against its own config; what is ours travels in one environment variable.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.launch import Request, for_acting, listen_after

CHILD = "apt_plugin.hosts.openpi"
JOB = "APT_OPENPI_JOB"
TRAIN = ("train.py", "train_pytorch.py")
SERVE = "serve_policy.py"


@dataclass(frozen=True)
class Program:
    """Where the host's script stands in a command line."""

    before: list[str]  # uv run, torchrun ..., env; python itself left out
    script: Path
    flags: list[str]


def find_program(command: Sequence[str]) -> Program:
    """The openpi script in a command line.

    Raises:
        AptError: none, or no such file.
    """
    for index, token in enumerate(command):
        if Path(token).name in (*TRAIN, SERVE, "compute_norm_stats.py"):
            if not Path(token).is_file():
                raise AptError(f"There is no {token} here. Run this in an openpi checkout, or write the script's path.")
            before = [t for t in command[:index] if not Path(t).name.startswith("python")]
            return Program(before, Path(token).resolve(), list(command[index + 1 :]))
    raise AptError(f"No openpi script in {' '.join(command)!r}. Write e.g. scripts/train.py pi05_libero --exp-name=e1.")


def child(program: Program) -> list[str]:
    """The process that derives our config and then runs the host's own script."""
    launcher = program.before
    if not launcher:
        launcher = [sys.executable]
    elif "torchrun" not in {Path(t).name for t in launcher} and "torch.distributed.run" not in launcher:
        launcher = [*launcher, "python"]
    return [*launcher, "-m", CHILD, str(program.script), *program.flags]


def call(program: Program, job: dict[str, Any], flags: Sequence[str] = ()) -> int:
    environment = os.environ | {JOB: json.dumps(job)}
    program = Program(program.before, program.script, [*program.flags, *flags])
    command = child(program)
    logging.info("APT: %s", " ".join(command))
    return subprocess.call(command, env=environment)


def run(request: Request) -> int:
    """Carry out `apt-plugin run` for openpi; returns the exit status."""
    program = find_program(request.command)
    chosen = for_acting(request) if request.recipe and program.script.name not in TRAIN else {}
    if program.script.name == SERVE:
        return call(program, {"do": "serve", "acting": chosen})
    if chosen:
        raise AptError(
            f"--apt.{next(iter(chosen))} changes how a checkpoint acts, and {program.script.name} opens none."
        )
    if request.recipe is None or program.script.name not in TRAIN:
        before = program.before or [sys.executable]
        return subprocess.call([*before, str(program.script), *program.flags])
    return Training(program, request).run()


def cache(request: Request, action: str) -> int:
    """Carry out `apt-plugin cache build|verify <openpi's training command>`."""
    program = find_program(request.command)
    if program.script.name not in TRAIN or request.recipe is None:
        raise AptError(f"Write the training command: apt-plugin cache {action} scripts/train.py ... --recipe apt.")
    if not request.recipe.cache:
        raise AptError(f"Which cache? Write --apt.cache DIR: apt-plugin cache {action} scripts/train.py ... .")
    return Training(program, request).cache(action)


class Training:
    """The stages of one training run: `<checkpoint_base_dir>/<config>_apt1/<exp_name>` and `..._apt2/<exp_name>`."""

    def __init__(self, program: Program, request: Request):
        self.program, self.request = program, request
        self.own = {stage: dict(flags) for stage, flags in request.stage_flags.items()}
        self.prior = self.own["2"].pop("from", None)  # --apt.stage2.from <Stage-1 checkpoint or run>
        self.wanted = {"1": ["1"], "2": ["2"], "both": ["1", "2"]}[request.stage]
        if request.recipe.cache and program.script.name != "train.py":
            raise AptError(
                "--apt.cache works with openpi's JAX trainer (scripts/train.py): its PyTorch trainer keeps the whole "
                "model in every process. Drop --apt.cache, or train in JAX."
            )

    def cache(self, action: str) -> int:
        """Make or check what can be now: Stage 2's data are read by the statistics of a finished Stage 1."""
        if self.request.stage == "both":
            logging.info("APT: Stage 1's cache; a run makes Stage 2's between the stages (or write --apt.stage 2).")
        stage = self.wanted[0]
        if not self.request.caches(stage):
            raise AptError(f"Stage {stage} trains the VLM ({self.request.recipe.vlm}) and reads no cache.")
        return self.prepared(stage, action)

    def prepared(self, stage: str, action: str) -> int:
        job = {"do": action, "stage": int(stage), "recipe": asdict(self.request.recipe), "prior": self.prior}
        return call(self.program, job, [as_flag(*kv) for kv in self.own[stage].items()])

    def run(self) -> int:
        wanted = self.wanted
        if "WORLD_SIZE" in os.environ and len(wanted) == 2:
            raise AptError(
                "Both stages cannot share one distributed launch. Put the launcher inside: apt-plugin run torchrun ... "
                "scripts/train_pytorch.py <config> ... --recipe apt, or name one stage: --apt.stage 1."
            )
        for stage in wanted:
            if stage == "2" and len(wanted) == 2 and self.request.prove and (status := self.prove()):
                return status
            if self.request.caches(stage) and (status := self.prepared(stage, "build")):
                return status
            status, written = self.stage(stage)
            if status:
                return status
            if stage == "1":
                self.prior = written
            elif written and self.request.listen:
                run = Path(written).parent
                config = next((flag for flag in self.program.flags if not flag.startswith("-")), "")
                more = ("--host", "openpi", "--config", config)
                listen_after(self.request.listen, written, run.with_name(f"{run.name}-listen"), *more)
        return 0

    def stage(self, stage: str) -> tuple[int, str | None]:
        """Run one stage; (exit status, the checkpoint it ended with)."""
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "result.json"
            job = {"do": "train", "stage": int(stage), "recipe": asdict(self.request.recipe), "answer": str(answer)}
            status = call(self.program, job | {"prior": self.prior}, [as_flag(*kv) for kv in self.own[stage].items()])
            written = json.loads(answer.read_text())["checkpoint"] if answer.is_file() else None
        return status, written

    def prove(self) -> int:
        """The contracts on Stage 1's result, in a process of its own; Stage 2 starts only when they hold."""
        command = [sys.executable, "-m", "apt_plugin", "prove", str(self.prior)]
        logging.info("APT: proofs: %s", " ".join(command))
        return subprocess.call(command)


def as_flag(name: str, value: str) -> str:
    """A flag as tyro wants it: booleans are --flag / --no-flag, the `no-` before the last part."""
    if value not in ("true", "false"):
        return f"--{name}={value}"
    head, dot, last = name.rpartition(".")
    return f"--{name}" if value == "true" else f"--{head}{dot}no-{last}"
