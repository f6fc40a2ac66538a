"""lerobot as the commands see it: the stages of its training command, and where the rest is."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.families import check as check_recipe
from apt_plugin.hosts.adapter import Command
from apt_plugin.hosts.lerobot.acting import acting
from apt_plugin.hosts.lerobot.checkpoints import last_whole, openable
from apt_plugin.hosts.lerobot.families import FAMILIES, POLICIES, Family, find, host_type, of, read_switches
from apt_plugin.hosts.lerobot.flags import autocast_flags, check_warmed, precision_flags, recipe_flags, source_flags
from apt_plugin.hosts.lerobot.pilot import LerobotPilot
from apt_plugin.hosts.lerobot.probes import PROBES
from apt_plugin.hosts.lerobot.programs import TRAIN, Program, check, child, find_program, flags_of, for_cache, found
from apt_plugin.hosts.lerobot.schedule import STEPS, lengths
from apt_plugin.hub import local_folder
from apt_plugin.launch import Request
from apt_plugin.recipe import HOST, Recipe
from apt_plugin.run.budget import Plan, count, plan
from apt_plugin.run.flags import Flags
from apt_plugin.run.staged import WANTED, folder_of
from apt_plugin.run.warmup import FROZEN_SHARE, no_training
from apt_plugin.stages import RECORD, read_record
from apt_plugin.vlm import Trained, resolved

# Not the policy's: what a resumed run takes from its own checkpoint.
_FROM_CHECKPOINT = ("config_path", "resume", "output_dir", "job_name")
HELD_OUT = "--dataset.eval_split"


class LerobotStages:
    """`lerobot-train` as stages, in `<output_dir>/stage1` and `<output_dir>/stage2`."""

    own_launch = "accelerate launch ... lerobot-train"
    held_out = HELD_OUT

    def __init__(self, program: Program, flags: Flags, request: Request):
        self.program, self.flags, self.request = program, flags, request
        now = datetime.datetime.now()
        self.output = Path(flags.get("output_dir") or f"outputs/apt/{now:%Y-%m-%d}/{now:%H-%M-%S}")
        self.resume = flags.get("resume") == "true"

    @cached_property
    def whole(self) -> Flags:
        """The command with the settings of a plain checkpoint that it names."""
        named = self.flags.get("policy.type") or self.flags.get("policy.path")
        return source_flags(self.flags) if named else self.flags  # a resumed command may leave it to its checkpoint

    @cached_property
    def recipe(self) -> Recipe:
        assert self.request.recipe is not None
        return resolved(self.request.recipe, self._trained)

    def _trained(self) -> Trained:
        if self.flags.get("peft.method_type") is not None:
            return Trained("lora", "--peft.method_type")
        flags = self.whole.with_(self.request.stage_flags["2"])
        family = self._family(flags)
        given = {name: value for name in family.switches if (value := flags.get(f"policy.{name}")) is not None}
        if (folder := self._source(bool(given))) is not None:
            recipe = read_record(folder).recipe
            still = tuple(pattern for pattern in recipe.freeze if pattern in family.still)
            return Trained(recipe.vlm, f"it was settled in {folder}", still)
        return family.trained(read_switches(given))

    def _family(self, flags: Flags) -> Family:
        """Of the command; one that names no policy here is refused with its own reason."""
        return find(flags.get("policy.type")) or FAMILIES[0]

    def _source(self, written: bool) -> Path | None:
        """A checkpoint of this recipe that the run goes on from, or that its Stage 2 starts from.

        Args:
            written: whether the command itself says what of the VLM trains.
        """
        found = [self.result("2"), self.result("1")] if self.resume else []
        if not written and self.request.stage == "2":
            named = self.request.stage_flags["2"].get("policy.path") or self.flags.get("policy.path")
            found.append(local_folder(named) if named else self.result("1"))
        return next((folder for folder in found if folder is not None and (folder / RECORD).is_file()), None)

    @cached_property
    def budget(self) -> Plan:
        # A Stage-1 checkpoint brings the schedule of Stage 1 along: Stage 2 alone has the host's own.
        flags = self.flags.with_({"policy.type": self.whole.get("policy.type") or ""})
        return plan(
            count("steps", self.flags.get("steps") or STEPS),
            flag="steps",
            schedule=lengths(flags if self.request.stage == "2" else self.whole),
            share=self.request.share,
            wanted=WANTED[self.request.stage],
            own=self.request.stage_flags,
        )

    def _lengths(self, stage: str, resumed: bool = False) -> dict[str, str]:
        """The stage's flags of the budget; a checkpoint of the stage holds those that a resumed command leaves out."""
        if resumed and self.flags.get("steps") is None:
            return {}
        given = self.budget.flags.get(stage, {})
        return {name: value for name, value in given.items() if not (resumed and name.startswith("policy."))}

    def folder(self, stage: str) -> Path:
        return folder_of(self.output, stage)

    def command(self, stage: str) -> Command:
        own = self.request.stage_flags[stage]
        if self.resume and (checkpoint := last_whole(self.folder(stage))) is not None:
            flags = self.flags.without(*_FROM_CHECKPOINT, prefix="policy.").without(prefix="dataset.")
            own = {k: v for k, v in own.items() if not k.startswith(("policy.", "dataset."))}
            config = checkpoint / "pretrained_model" / "train_config.json"
            flags = flags.without(prefix="peft.").with_(
                {**self._lengths(stage, True), **own, "config_path": str(config), "resume": "true"}
            )
            return self._process(flags, checkpoint / "pretrained_model")
        flags = self.flags.without("resume", "output_dir").with_({"output_dir": str(self.folder(stage))})
        flags = self._stage1(flags, own) if stage == "1" else self._stage2(flags, own)
        flags = self._settled(flags).with_({**self._lengths(stage), **own})
        path = flags.get("policy.path")
        return self._process(flags, None if path is None else local_folder(path))

    def _process(self, flags: Flags, checkpoint: Path | None) -> Command:
        return Command(child(self.program, flags.with_(autocast_flags(flags, checkpoint)).tokens()))

    def facts_command(self, stages: Sequence[str], answer: Path) -> Command:
        job = {"answer": str(answer), "output": str(self.output), "flags": {s: self._looked_at(s) for s in stages}}
        return check(job)

    def _looked_at(self, stage: str) -> list[str]:
        """A stage's flags before it can start: Stage 2 stands for itself on its prior's policy until there is one."""
        own = self.request.stage_flags[stage]
        named = own.get("policy.path") or (self.flags.get("policy.path") if self.request.stage == "2" else None)
        if stage == "2" and self.request.stage == "both" and named is None and self.result("1") is None:
            inherited = {k: v for k, v in self.request.stage_flags["1"].items() if k.startswith("policy.")}
            flags = source_flags(self.flags.without("resume").with_(inherited).with_(own))
            flags = self._settled(flags.with_({"policy.stage": "2", **recipe_flags(self.recipe)}))
            flags = flags.with_({**self._lengths(stage), **own})
            flags = flags.with_({"output_dir": str(self.folder("2"))})
        else:
            flags = Flags.read(flags_of(self.command(stage).argv))
        # What a resumed run left behind is set aside when the stage begins.
        return (flags.without("output_dir") if self.resume else flags).tokens()

    def _settled(self, flags: Flags) -> Flags:
        """A family's switches are in the recipe by now, where it takes them over."""
        follows = self.request.recipe is not None and self.request.recipe.vlm == HOST
        names = {name for family in FAMILIES if family.switches_in_recipe for name in family.switches}
        return flags.without(*(f"policy.{name}" for name in names)) if follows else flags

    def _stage1(self, flags: Flags, own: dict[str, str]) -> Flags:
        flags = source_flags(flags.with_(own))
        kind = host_type(flags.get("policy.type") or "")
        check_recipe(self.recipe, self._family(flags).rules_of(kind))  # draccus would hide the reason
        return flags.with_({"policy.stage": "1", **recipe_flags(self.recipe), **precision_flags(flags)})

    def _stage2(self, flags: Flags, own: dict[str, str]) -> Flags:
        # A path in a command for both stages is the base of Stage 1.
        named = self.flags.get("policy.path") if self.request.stage == "2" else None
        prior = own.get("policy.path") or named or self._own_prior()
        flags = flags.without("policy.type", "policy.path", "policy.pretrained_path")
        more = {"policy.path": prior, "policy.stage": "2", **recipe_flags(self.recipe)}
        if self.recipe.vlm == "lora" and flags.get("peft.method_type") is None:
            more["peft.method_type"] = "LORA"
        return flags.with_(more)

    def _own_prior(self) -> str:
        checkpoint = self.result("1")
        if checkpoint is None:
            raise AptError(
                f"Stage 2 starts from a Stage-1 result, and {self.folder('1')} holds none. Run --apt.stage both, or "
                "name one: --policy.path=<Stage-1 run>/checkpoints/last/pretrained_model."
            )
        return str(checkpoint)

    def cache_command(self, stage: str, action: str) -> Command:
        return Command(for_cache(self.command(stage).argv, action))

    def result(self, stage: str) -> Path | None:
        checkpoint = last_whole(self.folder(stage))
        return None if checkpoint is None else checkpoint / "pretrained_model"

    def record_folder(self, result: Path) -> Path:
        return result

    def finished(self, stage: str) -> bool:
        checkpoint = last_whole(self.folder(stage)) if self.resume else None
        if checkpoint is None:
            return False
        own = self.request.stage_flags[stage].get("steps")
        config = files.read_json(checkpoint / "pretrained_model" / "train_config.json")
        wanted = int(self._lengths(stage, True).get("steps") or own or config["steps"])
        return int(files.read_json(checkpoint / "training_state" / "training_step.json")["step"]) >= wanted

    def listen_flags(self) -> Sequence[str]:
        """On the data that Stage 2 was trained on; `apt-plugin listen` on held-out data asks a harder question."""
        policy = self.result("2")
        assert policy is not None
        config = files.read_json(policy / "train_config.json")["dataset"]
        return ["--dataset", config["repo_id"], *(["--root", config["root"]] if config.get("root") else [])]


class LerobotAdapter:
    """See `hosts.adapter.Adapter`."""

    name = "lerobot"
    policies = POLICIES
    families = tuple(POLICIES)
    unsupported = MappingProxyType({})
    probes = PROBES
    content = MappingProxyType({})

    def recognises_program(self, token: str) -> bool:
        return "lerobot-" in token or "lerobot." in token

    def recognises(self, folder: Path) -> bool:
        path = openable(folder) / "config.json"
        return path.is_file() and "type" in files.read_json(path)

    def stages(self, request: Request) -> LerobotStages | None:
        program = find_program(request.command)
        if request.recipe is None or program.name != TRAIN or program.asks_help:
            return None
        flags = Flags.read(program.flags)
        if flags.get("config_path") and flags.get("resume") == "true":
            if given := sorted(request.given):
                raise AptError(
                    f"--apt.{given[0]} is settled by the run that {flags.get('config_path')} belongs to: a resumed run "
                    "keeps its recipe. Drop --apt.*, or name the run by --output_dir instead."
                )
            return None  # one stage, resumed by its own config
        return LerobotStages(program, flags, request)

    def start(self, request: Request) -> Command:
        program = find_program(request.command)
        if request.recipe is None:
            return Command([found(request.command[0]), *request.command[1:]])
        if program.name == TRAIN and program.asks_help:
            kind = Flags.read([f for f in program.flags if f != "-h"]).get("policy.type")
            ours = POLICIES.get(kind or "", kind if find(kind) else next(iter(POLICIES.values())))
            return Command(child(program, [f"--policy.type={ours}", "--help"]))
        if program.name != TRAIN:
            flags, env = acting(program.name, program.flags, request)
            return Command(child(program, flags), env)
        flags = Flags.read(program.flags)  # one stage, resumed by its own config
        own = flags.with_(autocast_flags(flags, Path(flags.get("config_path") or "").parent))
        return Command(child(program, own.tokens()))

    def warmup(self, request: Request) -> Command:
        program = find_program(request.command)
        if program.name != TRAIN:
            raise no_training(program.name, TRAIN)
        check_warmed(program.flags)
        return Command(child(program, program.flags), {FROZEN_SHARE: str(request.frozen_share)})

    def pilot(self, command: Sequence[str]) -> LerobotPilot:
        return LerobotPilot(find_program(command), command)

    def open_subject(self, folder: Path, device: str | None) -> Any:
        from apt_plugin.hosts.lerobot.prove import open_subject

        return open_subject(folder, device)

    def open_listener(self, policy: str, dataset: str, **options: Any) -> Any:
        from apt_plugin.hosts.lerobot.listen import open_listener

        return open_listener(policy, dataset, **options)

    def open_base(self, base: str, listener: Any, **options: Any) -> Any:
        return listener.base(base)

    def open_label_sets(self, policy: str, labelled: str, unlabelled: str, **options: Any) -> tuple[Any, Any]:
        from apt_plugin.hosts.lerobot.label import open_sets

        return open_sets(policy, labelled, unlabelled, **options)

    def write_labels(self, labels: Any, unlabelled: Any, output: Path) -> str:
        from apt_plugin.hosts.lerobot.label import write_edit

        return write_edit(labels, unlabelled, output)

    def bench(self, **fields: Any) -> int:
        from apt_plugin.hosts.lerobot.bench import run

        return run(**fields)

    def export(self, folder: Path, output: Path) -> None:
        of(read_record(folder).policy).export(folder, output)

    def notes(self) -> Sequence[str]:
        from apt_plugin.hosts.lerobot.discovery import sentence

        return [sentence()]
