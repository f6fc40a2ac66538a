"""lerobot's own commands under the recipe: which processes to run, in which order.

Each stage is a fresh process of the host's script: nothing of Stage 1 stays in memory, a distributed engine is set
up once per stage, and either stage is resumed by the host's own `--resume`.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.acting import acting_flags
from apt_plugin.hosts.lerobot.checkpoints import last_whole
from apt_plugin.hosts.lerobot.names import POLICIES
from apt_plugin.hub import local_folder
from apt_plugin.launch import Flags, Request, listen_after, make_caches
from apt_plugin.recipe import Recipe, flatten

CHILD = "apt_plugin.hosts.lerobot"
TRAIN = "lerobot-train"
# Not the policy's: what a resumed run takes from its own checkpoint.
_FROM_CHECKPOINT = ("config_path", "resume", "output_dir", "job_name")
# Of a plain checkpoint's config: what the new policy says itself.
_NOT_CARRIED = ("type", "pretrained_path", "input_features", "output_features", "model_params_fp32")


@dataclass(frozen=True)
class Program:
    """Where the host's program stands in a command line."""

    before: list[str]  # python, accelerate launch ..., torchrun ...
    name: str  # lerobot-train, lerobot-eval, ..., or a module of lerobot
    flags: list[str]


def find_program(command: Sequence[str]) -> Program | None:
    """The lerobot program in a command line; None when there is none."""
    for index, token in enumerate(command):
        name = Path(token).name
        if name.startswith("lerobot-") and not token.startswith("--"):
            return Program(_without_python(command[:index]), name, list(command[index + 1 :]))
        if token.startswith("lerobot.") and index and command[index - 1] in ("-m", "--module"):
            script = token.rsplit(".", 1)[-1].replace("_", "-")
            name = script if token.startswith("lerobot.scripts.") else token
            return Program(_without_python(command[: index - 1]), name, list(command[index + 1 :]))
    return None


def _without_python(tokens: Sequence[str]) -> list[str]:
    return [t for t in tokens if not Path(t).name.startswith("python")]


def _found(name: str) -> str:
    """A program on the PATH, or beside this interpreter: `uv run` and an unactivated environment have it only there."""
    beside = Path(sys.executable).parent / name
    return shutil.which(name) or (str(beside) if beside.is_file() else name)


def child(program: Program, flags: Sequence[str]) -> list[str]:
    """The process that registers our policies and then runs the host's own script."""
    launcher = [_found(program.before[0]), *program.before[1:]] if program.before else [sys.executable]
    return [*launcher, "-m", CHILD, program.name, *flags]


def for_cache(command: Sequence[str], action: str) -> list[str]:
    """The same processes with the same flags, making or checking the cache in place of training."""
    place = len(command) - 1 - list(reversed(command)).index(TRAIN)
    return [*command[:place], f"apt-cache-{action}", *command[place + 1 :]]


def cache(request: Request, action: str) -> int:
    """Carry out `apt-plugin cache build|verify <lerobot's training command>`."""
    program = find_program(request.command)
    if program is None or program.name != TRAIN or request.recipe is None:
        raise AptError(f"Write the training command: apt-plugin cache {action} lerobot-train ... --recipe apt.")
    return Training(program, Flags(program.flags), request).cache(action)


def run(request: Request) -> int:
    """Carry out `apt-plugin run` for lerobot; returns the exit status."""
    program = find_program(request.command)
    if program is None:
        raise AptError(f"No lerobot program in {' '.join(request.command)!r}. Write e.g. lerobot-train ...")
    if request.recipe is None:
        return subprocess.call([_found(request.command[0]), *request.command[1:]])
    if program.name != TRAIN:
        return subprocess.call(child(program, acting_flags(program.name, program.flags, request)))
    flags = Flags(program.flags)
    if flags.get("help") or "-h" in program.flags:
        ours = POLICIES.get(flags.get("policy.type") or "pi05", "pi05_apt")
        return subprocess.call(child(program, [f"--policy.type={ours}", "--help"]))
    if flags.get("config_path") and flags.get("resume") == "true":
        if given := sorted(request.given):
            raise AptError(
                f"--apt.{given[0]} is settled by the run that {flags.get('config_path')} belongs to: a resumed run "
                "keeps its recipe. Drop --apt.*, or name the run by --output_dir instead."
            )
        return subprocess.call(child(program, program.flags))
    return Training(program, flags, request).run()


class Training:
    """The stages of one training run, in `<output_dir>/stage1` and `<output_dir>/stage2`."""

    def __init__(self, program: Program, flags: Flags, request: Request):
        assert request.recipe is not None
        self.program, self.flags, self.request, self.recipe = program, flags, request, request.recipe
        now = datetime.datetime.now()
        self.output = Path(flags.get("output_dir") or f"outputs/apt/{now:%Y-%m-%d}/{now:%H-%M-%S}")
        self.resume = flags.get("resume") == "true"
        if "WORLD_SIZE" in os.environ and request.stage == "both":
            raise AptError(
                "Both stages cannot share one distributed launch. Put the launcher inside: apt-plugin run accelerate "
                "launch ... lerobot-train ... --recipe apt, or name one stage: --apt.stage 1."
            )

    def run(self) -> int:
        wanted = {"1": ["1"], "2": ["2"], "both": ["1", "2"]}[self.request.stage]
        commands = {stage: self.command(stage) for stage in wanted if stage == "1" or len(wanted) == 1}
        for stage in wanted:
            if self.finished(stage):
                logging.info("APT: Stage %s is finished in %s, going on.", stage, self.folder(stage))
                continue
            if stage == "2" and len(wanted) == 2 and self.request.prove and (status := self.prove()):
                return status
            command = commands.get(stage) or self.command(stage)
            if self.request.caches(stage) and (status := subprocess.call(for_cache(command, "build"))):
                return status
            logging.info("APT: Stage %s: %s", stage, " ".join(command))
            if status := subprocess.call(command):
                return status
        from apt_plugin.hosts.lerobot.summary import write_summary

        if "2" in wanted and self.request.listen:
            self.listen()
        write_summary(self.output)
        return 0

    def cache(self, action: str) -> int:
        """`apt-plugin cache build|verify`: every stage whose cache can be made now."""
        if not self.recipe.cache:
            raise AptError(f"Which cache? Write --apt.cache DIR: apt-plugin cache {action} lerobot-train ... .")

        def make(stage: str) -> int:
            return subprocess.call(for_cache(self.command(stage), action))

        return make_caches(self.request, last_whole(self.folder("1")) is not None, make)

    def folder(self, stage: str) -> Path:
        return self.output / f"stage{stage}"

    def command(self, stage: str) -> list[str]:
        own = self.request.stage_flags[stage]
        if self.resume and (checkpoint := last_whole(self.folder(stage))) is not None:
            flags = self.flags.without(*_FROM_CHECKPOINT, prefix="policy.").without(prefix="dataset.")
            own = {k: v for k, v in own.items() if not k.startswith(("policy.", "dataset."))}
            config = checkpoint / "pretrained_model" / "train_config.json"
            flags = flags.without(prefix="peft.").with_({**own, "config_path": str(config), "resume": "true"})
            return child(self.program, flags.tokens())
        flags = self.flags.without("resume", "output_dir").with_({"output_dir": str(self.folder(stage))})
        flags = self._stage1(flags, own) if stage == "1" else self._stage2(flags, own)
        return child(self.program, flags.with_(own).tokens())

    def _stage1(self, flags: Flags, own: dict[str, str]) -> Flags:
        flags = source_flags(flags.with_(own))
        return flags.with_({"policy.stage": "1", **recipe_flags(self.recipe), **precision_flags(flags)})

    def _stage2(self, flags: Flags, own: dict[str, str]) -> Flags:
        prior = own.get("policy.path") or self.flags.get("policy.path") or self._own_prior()
        flags = flags.without("policy.type", "policy.path", "policy.pretrained_path")
        more = {"policy.path": prior, "policy.stage": "2", **recipe_flags(self.recipe)}
        if self.recipe.vlm == "lora" and flags.get("peft.method_type") is None:
            more["peft.method_type"] = "LORA"
        return flags.with_(more)

    def _own_prior(self) -> str:
        checkpoint = last_whole(self.folder("1"))
        if checkpoint is None:
            raise AptError(
                f"Stage 2 starts from a Stage-1 result, and {self.folder('1')} holds none. Run --apt.stage both, or "
                "name one: --policy.path=<Stage-1 run>/checkpoints/last/pretrained_model."
            )
        return str(checkpoint / "pretrained_model")

    def finished(self, stage: str) -> bool:
        """Whether this stage already took all its steps (only a resumed run looks)."""
        checkpoint = last_whole(self.folder(stage)) if self.resume else None
        if checkpoint is None:
            return False
        config = files.read_json(checkpoint / "pretrained_model" / "train_config.json")
        wanted = int(self.request.stage_flags[stage].get("steps") or self.flags.get("steps") or config["steps"])
        return int(files.read_json(checkpoint / "training_state" / "training_step.json")["step"]) >= wanted

    def prove(self) -> int:
        """The contracts on Stage 1's result, in a process of its own; Stage 2 starts only when they hold."""
        target = self._own_prior()
        command = [sys.executable, "-m", "apt_plugin", "prove", target, "--json", str(self.output / "proofs.json")]
        logging.info("APT: proofs: %s", " ".join(command))
        return subprocess.call(command)

    def listen(self) -> None:
        """On the data that Stage 2 was trained on; `apt-plugin listen` on held-out data asks a harder question."""
        checkpoint = last_whole(self.folder("2"))
        if checkpoint is None:
            return
        config = files.read_json(checkpoint / "pretrained_model" / "train_config.json")["dataset"]
        where = ["--root", config["root"]] if config.get("root") else []
        policy = checkpoint / "pretrained_model"
        listen_after(self.request.listen, policy, self.output, "--dataset", config["repo_id"], *where)


def recipe_flags(recipe: Recipe) -> dict[str, str]:
    """Every field of the recipe as a flag of the policy config: a stage never inherits one by accident."""
    out = {}
    for name, value in flatten(asdict(recipe)).items():
        out[f"policy.recipe.{name}"] = json.dumps(value) if isinstance(value, list | bool) else str(value)
    return out


def precision_flags(flags: Flags) -> dict[str, str]:
    """On a GPU π trains in bfloat16 unless the user, or the checkpoint, says otherwise: lerobot's default of float32
    takes Stage 1 of a full-size π0.5 beyond a 24 GB card. (GR00T's config has the same default by itself.)"""
    if flags.get("policy.type") not in ("pi05_apt", "pi0_apt") or flags.get("policy.dtype") is not None:
        return {}
    device = flags.get("policy.device")
    if device is None:
        from torch import cuda

        device = "cuda" if cuda.is_available() else "cpu"
    if not device.startswith("cuda"):
        return {}
    logging.info(
        "APT: --policy.dtype=bfloat16, so that Stage 1 fits a 24 GB card; write float32 for the host's default."
    )
    return {"policy.dtype": "bfloat16"}


def source_flags(flags: Flags) -> Flags:
    """Turn the host's policy type, or a plain checkpoint named by --policy.path, into ours.

    Raises:
        AptError: a policy without a flow-matching action expert behind a VLM, or none named.
    """
    path = flags.get("policy.path")
    kind = flags.get("policy.type")
    if path is not None:
        config = files.read_json(local_folder(path) / "config.json")
        kind = config.get("type")
        carried = {
            f"policy.{k}": json.dumps(v) if isinstance(v, list | bool | dict) else str(v)
            for k, v in config.items()
            if k not in _NOT_CARRIED and v is not None
        }
        flags = flags.without("policy.path")
        named = {k: v for k, v in carried.items() if flags.get(k) is None}
        flags = flags.with_({**named, "policy.pretrained_path": path})
    if kind is None:
        raise AptError("Which policy? Write --policy.type=pi05 --policy.pretrained_path=lerobot/pi05_base (or pi0).")
    base = kind.partition("_")[0] if kind not in POLICIES and kind not in POLICIES.values() else kind
    ours = POLICIES.get(base, kind if kind in POLICIES.values() else None)
    if ours is None or (base != kind and not kind.endswith("_tiny")):
        raise AptError(
            f"The recipe needs a VLM with a flow-matching action expert; in lerobot that is {', '.join(POLICIES)}. "
            f"--policy.type is {kind!r}."
        )
    return flags.with_({"policy.type": ours})
