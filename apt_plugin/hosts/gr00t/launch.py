"""Isaac GR00T's own commands under the recipe: which processes to run, in which order.

Each stage is a fresh process of the host's script, under torchrun too, in `<output-dir>/stage1` and `/stage2`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.checkpoints import last_whole
from apt_plugin.hosts.gr00t.names import BUILDERS, CHILD, TRAIN
from apt_plugin.hub import local_folder
from apt_plugin.launch import Request, listen_after, make_caches
from apt_plugin.recipe import Recipe, flatten
from apt_plugin.report.run import write_run
from apt_plugin.run.child import call
from apt_plugin.run.lock import only_one
from apt_plugin.stages import read_record


@dataclass(frozen=True)
class Program:
    """Where the host's program stands in a command line."""

    before: list[str]  # torchrun ..., or nothing
    module: str
    flags: list[str]

    def child(self, flags: Sequence[str]) -> list[str]:
        """The process that registers our model and then runs the host's own script."""
        launcher = self.before or [sys.executable]
        if launcher[0].startswith("-"):
            launcher = [sys.executable, *launcher]
        return [*launcher, "-m", CHILD, self.module, *flags]


def find_program(command: Sequence[str]) -> Program | None:
    """The gr00t program in a command line, as a file or behind -m; None when there is none."""
    for index, token in enumerate(command):
        if token.startswith("-"):
            continue
        path = Path(token)
        if path.suffix == ".py" and "gr00t" in path.parts:
            parts = path.with_suffix("").parts
            module = ".".join(parts[len(parts) - 1 - parts[::-1].index("gr00t") :])
            return Program(_without_python(command[:index]), module, list(command[index + 1 :]))
        if token.startswith("gr00t.") and index and command[index - 1] in ("-m", "--module"):
            return Program(_without_python(command[: index - 1]), token, list(command[index + 1 :]))
    return None


def _without_python(tokens: Sequence[str]) -> list[str]:
    return [token for token in tokens if not Path(token).name.startswith("python")]


def value_of(tokens: Sequence[str], name: str) -> str | None:
    """The last value of a host flag, however it is spelt (`--base-model-path V`, `--base_model_path=V`)."""
    found = None
    for index, token in enumerate(tokens):
        flag, joined, value = token.partition("=")
        if flag.startswith("--") and flag[2:].replace("_", "-") == name:
            behind = tokens[index + 1] if index + 1 < len(tokens) else "--"
            found = value if joined else "true" if behind.startswith("--") else behind
    return found


def without(tokens: Sequence[str], *names: str) -> list[str]:
    """Drop flags and their values, all others untouched: some take several values, which only the host can tell."""
    kept: list[str] = []
    dropping = False
    for token in tokens:
        if token.startswith("--"):
            flag = token.partition("=")[0][2:].replace("_", "-").removeprefix("no-")
            dropping = flag in names
        if not dropping:
            kept.append(token)
    return kept


def with_flags(tokens: Sequence[str], values: dict[str, str]) -> list[str]:
    """Set host flags, replacing earlier values."""
    named = {name.replace("_", "-"): value for name, value in values.items()}
    out = without(tokens, *named)
    for name, value in named.items():
        out += {"true": [f"--{name}"], "false": [f"--no-{name}"]}.get(value, [f"--{name}", value])
    return out


def run(request: Request) -> int:
    """Carry out `apt-plugin run` for Isaac GR00T; returns the exit status."""
    program = find_program(request.command)
    if program is None:
        raise AptError(
            f"No GR00T program in {' '.join(request.command)!r}. Write e.g. gr00t/experiment/launch_finetune.py ..., "
            "or -m gr00t.experiment.launch_finetune ..."
        )
    if request.recipe is None:
        return call(_as_command(request.command))
    if program.module != TRAIN:
        return call(program.child(["--recipe", "apt", *program.flags]))
    if "--help" in program.flags or "-h" in program.flags:
        return call(program.child(["--recipe", "apt", *program.flags]))
    return Training(program, request).run()


def for_cache(command: Sequence[str], action: str) -> list[str]:
    """The same processes with the same flags, making or checking the cache in place of training."""
    place = len(command) - 1 - list(reversed(command)).index(TRAIN)
    marker = next(name for name, does in BUILDERS.items() if does == action)
    return [*command[:place], marker, *command[place + 1 :]]


def cache(request: Request, action: str) -> int:
    """Carry out `apt-plugin cache build|verify <GR00T's fine-tune command>`."""
    program = find_program(request.command)
    if program is None or program.module != TRAIN or request.recipe is None:
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
        self.output = Path(value_of(program.flags, "output-dir") or "outputs")
        self.resume = value_of(program.flags, "resume-from-checkpoint") is not None
        if "WORLD_SIZE" in os.environ and request.stage == "both":
            raise AptError(
                "Both stages cannot share one distributed launch. Put the launcher inside: apt-plugin run torchrun ... "
                "gr00t/experiment/launch_finetune.py ... --recipe apt, or name one stage: --apt.stage 1."
            )

    def run(self) -> int:
        with only_one(self.output):
            return self._run()

    def _run(self) -> int:
        wanted = {"1": ["1"], "2": ["2"], "both": ["1", "2"]}[self.request.stage]
        for stage in wanted:
            if self.finished(stage):
                logging.info("APT: Stage %s is finished in %s, going on.", stage, self.folder(stage))
                continue
            if stage == "2" and len(wanted) == 2 and self.request.prove and (status := self.prove()):
                return status
            command = self.command(stage)
            if self.request.caches(stage) and (status := call(for_cache(command, "build"))):
                return status
            logging.info("APT: Stage %s: %s", stage, " ".join(command))
            if status := call(command):
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
            return call(for_cache(self.command(stage), action))

        return make_caches(self.request, last_whole(self.folder("1")) is not None, make)

    def listen(self, checkpoint: Path) -> None:
        """On the (first) data set that Stage 2 was trained on."""
        own = {name.replace("_", "-"): value for name, value in self.request.stage_flags["2"].items()}
        data = own.get("dataset-path") or value_of(self.program.flags, "dataset-path") or ""
        tag = own.get("embodiment-tag") or value_of(self.program.flags, "embodiment-tag")
        more = ["--config", tag] if tag else []
        path = data.split(os.pathsep)[0]
        listen_after(self.request.listen, checkpoint, self.output, "--host", "gr00t", "--dataset", path, *more)

    def folder(self, stage: str) -> Path:
        return self.output / f"stage{stage}"

    def command(self, stage: str) -> list[str]:
        flags = with_flags(self.program.flags, {"output-dir": str(self.folder(stage))})
        flags = without(flags, "resume-from-checkpoint")
        if self.resume and last_whole(self.folder(stage)) is not None:
            flags = with_flags(flags, {"resume-from-checkpoint": "true"})
        if stage == "2":
            own = self.request.stage_flags["2"]
            prior = own.get("base-model-path") or own.get("base_model_path")
            if prior is None and self.request.stage == "2" and last_whole(self.folder("1")) is None:
                prior = value_of(self.program.flags, "base-model-path")
            flags = with_flags(flags, {"base-model-path": str(self._prior(prior))})
        own = {
            k: v
            for k, v in self.request.stage_flags[stage].items()
            if k.replace("_", "-") != "base-model-path" or stage == "1"
        }
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
                "--base-model-path <Stage-1 run>/checkpoint-N."
            )
        return found

    def finished(self, stage: str) -> bool:
        """Whether this stage already took all its steps (only a resumed run looks)."""
        last = last_whole(self.folder(stage)) if self.resume else None
        if last is None:
            return False
        own = self.request.stage_flags[stage]
        wanted = own.get("max-steps") or own.get("max_steps") or value_of(self.program.flags, "max-steps") or "10000"
        return int(files.read_json(last / "trainer_state.json")["global_step"]) >= int(wanted)

    def prove(self) -> int:
        """The contracts on Stage 1's result, in a process of its own; Stage 2 starts only when they hold."""
        target = str(self._prior(None))
        command = [sys.executable, "-m", "apt_plugin", "prove", target, "--json", str(self.output / "proofs.json")]
        logging.info("APT: proofs: %s", " ".join(command))
        return call(command)


def recipe_flags(recipe: Recipe) -> list[str]:
    """Every field of the recipe as a flag: a stage never inherits one by accident."""
    out = []
    for name, value in flatten(asdict(recipe)).items():
        if value != "":
            out.append(f"--apt.{name}={json.dumps(value) if isinstance(value, list | bool) else value}")
    return out
