"""`apt-plugin`: the commands and their arguments. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import dataclasses
import logging
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from apt_plugin import __version__
from apt_plugin.arguments import check, in_words
from apt_plugin.errors import AptError, choose
from apt_plugin.overview import OVERVIEW
from apt_plugin.passed_commands import PASSED


@dataclass(frozen=True)
class Doctor:
    """Which hosts are here, in which versions, supported or not and why, and what is registered."""

    def __call__(self) -> int:
        from apt_plugin.doctor import report

        return report()


@dataclass(frozen=True)
class Prove:
    """Measure the contracts on a checkpoint; exit status 1 when one fails."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    json: Path | None = None
    """Also write the rows to this file."""
    device: str | None = None
    """Where to run (the checkpoint's own device by default)."""

    def __call__(self) -> int:
        from apt_plugin.doctor import prove

        return prove(str(self.checkpoint), self.json, self.device)


@dataclass(frozen=True)
class Export:
    """Fold the gates into a stock checkpoint where that is exact; refuse, with the reason, where it is not."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    output: Annotated[Path, tyro.conf.Positional]

    def __call__(self) -> int:
        from apt_plugin.doctor import export

        return export(self.checkpoint, self.output)


@dataclass(frozen=True)
class Patch:
    """Apply, revert or check our small patches in a host's checkout, or make pull requests of them (--as-branch)."""

    host: Annotated[str, tyro.conf.Positional]
    action: Literal["apply", "revert", "check"] = "apply"
    checkout: Path | None = None
    """The host's checkout (the one that its package is imported from by default)."""
    as_branch: str = ""
    """Make a branch of this name there instead: one commit a patch with its test, and the pull request's text."""
    only: tuple[int, ...] = ()
    """With --as-branch: numbers of the patches, e.g. --only 3 5."""
    base: str = ""
    """With --as-branch: the commit to start from (the host's main by default)."""

    def __call__(self) -> int:
        from apt_plugin import patching, pulls

        if not self.as_branch and (self.only or self.base):
            flag = "--only" if self.only else "--base"
            raise AptError(
                f"{flag} is for a branch: add --as-branch NAME. Without it all patches are applied together."
            )
        branch = (self.as_branch, self.only, self.base)
        done = (
            pulls.run(self.host, self.checkout, *branch)
            if self.as_branch
            else patching.run(self.host, self.action, self.checkout)
        )
        print(done)
        return 0


@dataclass(frozen=True)
class Listen:
    """Does a policy listen? Asked on frames of its own data, without a simulator; any policy of a supported host."""

    policy: str
    """A checkpoint folder (or, with --host, what that host calls a checkpoint)."""
    dataset: str = ""
    """The host's data set: a hub id or a folder. openpi takes it from --config."""
    host: str = ""
    """lerobot, openpi or gr00t; recognised by the folder when left out."""
    root: str = ""
    """lerobot: the folder of a data set whose id is given."""
    config: str = ""
    """openpi: the training config's name. gr00t: the embodiment tag."""
    frames: int = 64
    instructions: tuple[str, ...] = ()
    """A .yaml or .json file of instructions, or texts to ask every frame under."""
    libero_pro: Path | None = None
    """A local copy of LIBERO-PRO: its paraphrases and task swaps."""
    per_frame: int = 8
    """Instructions per frame, the true one and the empty one among them."""
    draws: int = 8
    """Noise draws per instruction; the same for every instruction of a frame."""
    guidance: tuple[float, ...] = ()
    """Guidance scales to sweep, e.g. 0 1 1.5 2 3; then act with one: apt-plugin run ... --apt.guidance_scale 1.5."""
    base: str = ""
    """The base checkpoint: was the VLM left alone, and has it kept its language?"""
    quick: bool = False
    """Only rule out the cheap causes: weights, words, data, statistics, retention. Exit 1 when one is found."""
    suite: str = ""
    """With --quick: a suite of the LIBERO that is installed here. Does its evaluator tell the policy what it scores?"""
    output: Path = Path("apt-listen")
    """Where listen.html and listen.json go."""
    card: bool = False
    """Also write the verdict into the checkpoint's model card (README.md beside its weights)."""
    batch: int = 32
    device: str = ""
    seed: int = 0

    def __call__(self) -> int:
        from apt_plugin.listen import Settings
        from apt_plugin.listen.pages import console
        from apt_plugin.listen_command import quick_status, run

        settings = Settings(self.per_frame, self.draws, self.batch, self.seed, self.guidance)
        more = {name: getattr(self, name) for name in ("root", "config") if getattr(self, name)}
        more |= {"frames": self.frames, "device": self.device}
        asked = (self.policy, self.dataset, self.host)
        if self.quick:
            return quick_status(*asked, self.base, self.output, self.seed, self.suite, **more)
        if self.suite:
            raise AptError("--suite is looked at among the cheap causes: write --quick beside it.")
        more["card"] = self.card
        console([run(*asked, settings, self.instructions, self.libero_pro, self.base, self.output, **more)])
        return 0


@dataclass(frozen=True)
class Label:
    """Instructions for unlabelled episodes, by a policy that listens; refused where it adds nothing to the scene."""

    policy: str
    """A checkpoint folder of any host, stock or APT."""
    labelled: str
    """The data set with instructions: hub id or folder. Episodes that the policy did not train on calibrate best."""
    unlabelled: str
    """The data set without."""
    host: str = ""
    labelled_root: str = ""
    root: str = ""
    """Folders of the two data sets, where ids are given (lerobot)."""
    config: str = ""
    """openpi: the training config; Isaac GR00T: the embodiment tag."""
    frames: int = 4
    """Frames of an episode that are asked about."""
    ask: int = 16
    """Instructions asked of an episode: the likeliest by its first image."""
    draws: int = 8
    sure: float = 0.9
    """Probability from which an episode gets its label."""
    known: int = 64
    """Labelled episodes to calibrate on."""
    output: Path = Path("apt-labels")
    """Where labels.json and the host's own edit, or a labelled copy, go."""
    batch: int = 32
    device: str = ""
    seed: int = 0

    def __call__(self) -> int:
        from apt_plugin.label_command import run
        from apt_plugin.listen.labels import Ask

        how = Ask(self.frames, self.ask, self.draws, self.batch, self.sure, self.known, self.seed)
        flags = ("labelled_root", "root", "device", "config")
        more = {name: getattr(self, name) for name in flags if getattr(self, name)}
        run(self.policy, self.labelled, self.unlabelled, self.host, how, self.output, **more)
        return 0


@dataclass(frozen=True)
class Demo:
    """A tabletop world, a tiny π0.5 of lerobot's own classes, both stages, proofs, rollouts and one HTML report."""

    quick: bool = False
    """8 to 10 minutes on two cores instead of 20; too short to learn much, every step is the same."""
    output: Path = Path("apt-demo")
    """Where data, checkpoints and the report go."""
    seed: int = 0

    def __call__(self) -> int:
        from apt_plugin.tabletop.demo import demo

        return demo(**dataclasses.asdict(self))


@dataclass(frozen=True)
class Bench:
    """What each way of training and acting costs, in one table: host, its own freezing, both stages, cache, acting.

    Random weights. A step of lerobot's is forward and backward, of openpi's its own train_step with the optimiser. On
    meta nothing is timed: FLOPs and bytes are counted, at the real sizes too.
    """

    family: Annotated[Literal["pi05", "pi0", "groot", "smolvla"], tyro.conf.Positional] = "pi05"
    host: Literal["", "lerobot", "openpi", "gr00t"] = ""
    """The first of them that is installed and supported, when left out."""
    size: Literal["tiny", "deep", "quarter", "real"] = "quarter"
    """deep: GR00T's real depths on a sixteenth of its widths."""
    device: Literal["cpu", "cuda", "meta"] = "cpu"
    rounds: int = 4
    """The best of so many is taken."""
    batch: int | None = None
    json: Path | None = None
    """Write the rows here, and a plot beside them."""
    plain: bool = False
    """A fixed width of 200 columns, for files."""
    memory: bool = False
    """Only bytes: the default recipe beside the host's own run of the same command. GR00T: device meta."""

    def __call__(self) -> int:
        from apt_plugin.hosts import HOSTS, named

        fields, usable = dataclasses.asdict(self), (n for n, host in HOSTS.items() if host.standing().usable)
        adapter = named(fields.pop("host") or next(usable, next(iter(HOSTS))))
        choose("family", self.family, adapter.families)
        return adapter.bench(**fields)


def check_device(device: str) -> None:
    """
    Raises:
        AptError: this machine lacks it.
    """
    if device in ("", "cpu", "meta"):  # without PyTorch too
        return
    with suppress(ModuleNotFoundError):  # no host of this plugin is here, and the command says so
        from apt_plugin.backends import torch_device

        torch_device.check(device, "--device")


COMMANDS = {
    "doctor": Doctor, "prove": Prove, "listen": Listen, "label": Label, "export": Export, "patch": Patch,
    "bench": Bench, "demo": Demo,
}  # fmt: skip


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # libraries are not asked about themselves here
    logging.getLogger("apt_plugin").setLevel(logging.INFO)
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help"):  # tyro would list the commands a second time, in its own order
        print(OVERVIEW)
        sys.exit(0)
    if argv[:1] == ["--version"]:
        print(f"apt-plugin {__version__}")
        sys.exit(0)
    with in_words():
        if own := PASSED.get(argv[0]):
            sys.exit(own(argv[1:]))
        if not argv[0].startswith("-"):
            choose("apt-plugin's command", argv[0], (*COMMANDS, *PASSED, "tabletop"))
        known, prog, about = COMMANDS, "apt-plugin", OVERVIEW
        if argv[:1] == ["tabletop"]:
            from apt_plugin import tabletop_command as tabletop

            known, prog, about, argv = tabletop.COMMANDS, "apt-plugin tabletop", tabletop.__doc__, argv[1:]
        command = tyro.extras.subcommand_cli_from_dict(known, prog=prog, description=about, args=argv or ["--help"])
        check(command)
        check_device(str(getattr(command, "device", None) or ""))
        sys.exit(command())


if __name__ == "__main__":
    main()
