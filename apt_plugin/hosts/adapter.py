"""What the plugin asks of a host: everything, and nothing that is not here.

Five rooms in every `hosts/<name>/` answer it: adapter (this contract), data, model, checkpoint, training. A host that
cannot do something says why (`unsupported`); nobody asks by `hasattr`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from apt_plugin.launch import Request
    from apt_plugin.probes import Probe
    from apt_plugin.proofs import Subject
    from apt_plugin.recipe import Recipe
    from apt_plugin.run import budget
    from apt_plugin.trial.pilot import Pilot


# For processes of ours beside a host's own: what libraries say while they are imported, its training says already.
QUIET = MappingProxyType({"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"})


@dataclass(frozen=True)
class Command:
    """A process to start.

    Args:
        argv: program and arguments.
        env: what its environment has beside this process's.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(self.argv)


class Stages(Protocol):
    """One training command of a host as the recipe's stages: which processes, where their results lie.

    `run.staged` carries it out; stages are "1" and "2".
    """

    @property
    def recipe(self) -> Recipe:
        """The recipe of this run, with what Stage 2 does with the VLM read off the user's own command (`vlm.resolved`).

        Raises:
            AptError: a command of which that cannot be told.
        """
        ...

    @property
    def budget(self) -> budget.Plan:
        """Steps and schedule of each wanted stage, from the host's own number of steps.

        Raises:
            AptError: too few steps for two stages.
        """
        ...

    @property
    def output(self) -> Path:
        """The run's folder: proofs, the listening answer and the report go there."""
        ...

    @property
    def resume(self) -> bool:
        """Whether the command goes on with a run."""
        ...

    @property
    def held_out(self) -> str:
        """The flag by which this host holds frames out of training, for the report; "" where it has none."""
        ...

    @property
    def own_launch(self) -> str:
        """How to write this host's command with a distributed launcher inside, for the message that asks for it."""
        ...

    def facts_command(self, stages: Sequence[str], answer: Path) -> Command | None:
        """ONE process that parses the flags of these stages by the host's own parser, before any of them ran, and
        leaves what `run.preflight` judges in `answer` (`preflight.write`). It builds no model and decodes no image.
        None where such a process has run already, and the answer is there.

        Raises:
            AptError: what that process was refused for.
        """
        ...

    def command(self, stage: str) -> Command:
        """The process that trains a stage; called once its Stage 1, where it needs one, is there.

        Raises:
            AptError: flags that cannot be followed, or no Stage 1 to start from.
        """
        ...

    def cache_command(self, stage: str, action: str) -> Command:
        """The process that builds ("build") or compares ("verify") a stage's feature cache.

        Raises:
            AptError: this trainer reads no cache.
        """
        ...

    def result(self, stage: str) -> Path | None:
        """The newest whole checkpoint that a stage left, as `apt-plugin prove` opens it; None before there is one."""
        ...

    def record_folder(self, result: Path) -> Path:
        """Where `apt.json` lies in a result."""
        ...

    def folder(self, stage: str) -> Path:
        """Where the host writes a stage, whether it is there yet or not."""
        ...

    def finished(self, stage: str) -> bool:
        """Whether a resumed run has nothing left to do in this stage."""
        ...

    def listen_flags(self) -> Sequence[str]:
        """The flags by which `apt-plugin listen` finds Stage 2's data."""
        ...


class Adapter(Protocol):
    """A host, as the commands see it."""

    @property
    def name(self) -> str:
        """As `--host` names it."""
        ...

    @property
    def policies(self) -> Mapping[str, str]:
        """The host's model -> ours."""
        ...

    @property
    def families(self) -> Sequence[str]:
        """What `apt-plugin bench` may be asked for."""
        ...

    @property
    def unsupported(self) -> Mapping[str, str]:
        """What is asked for -> why this host has none."""
        ...

    @property
    def probes(self) -> Sequence[Probe]:
        """What the plugin relies on in this host's files."""
        ...

    @property
    def content(self) -> Mapping[str, Sequence[str]]:
        """File of the host, below its package -> SHA-256 of what was tested; where the version number tells nothing."""
        ...

    def recognises_program(self, token: str) -> bool:
        """Whether a word of a command line names a program of this host."""
        ...

    def recognises(self, folder: Path) -> bool:
        """Whether a checkpoint folder, stock or APT, was written by this host. Reads files only."""
        ...

    def stages(self, request: Request) -> Stages | None:
        """The stages of a training command; None for any other program of the host.

        Raises:
            AptError: no program of this host in the command, or flags that cannot be followed.
        """
        ...

    def start(self, request: Request) -> Command:
        """The process of a program that trains nothing (or of any, where no recipe is named)."""
        ...

    def warmup(self, request: Request) -> Command:
        """The process of a training command with the VLM frozen for `request.frozen_share` of the steps. Before its
        first step it looks at the command (`run.warmup.look`).

        Raises:
            AptError: no training command, or of a policy without a VLM that is known.
        """
        ...

    def pilot(self, command: Sequence[str]) -> Pilot:
        """A training command as `apt-plugin trial` runs it briefly.

        Raises:
            AptError: no training command, or one of which no short run can be made.
        """
        ...

    def open_subject(self, folder: Path, device: str | None) -> Subject:
        """A checkpoint of ours, for the proofs."""
        ...

    def open_listener(self, policy: str, dataset: str, **options: Any) -> Any:
        """Any policy of the host on its data, for `listen`; `episodes`: only those, where it has a trial."""
        ...

    def open_base(self, base: str, listener: Any, **options: Any) -> Any:
        """The VLM of a base checkpoint beside the listener's: `listen.evidence.Base`.

        Raises:
            AptError: no base of this policy.
        """
        ...

    def open_label_sets(self, policy: str, labelled: str, unlabelled: str, **options: Any) -> tuple[Any, Any]:
        """The labelled and the unlabelled set behind a policy, for `label`."""
        ...

    def write_labels(self, labels: Any, unlabelled: Any, output: Path) -> str:
        """Write the labels in the host's own way; what its user does next, in words."""
        ...

    def bench(self, **fields: Any) -> int:
        """Print the table of what training and acting cost."""
        ...

    def export(self, folder: Path, output: Path) -> None:
        """Write a stock checkpoint where folding is exact.

        Args:
            folder: the checkpoint's folder with its record.

        Raises:
            AptError: it is not, with the reason.
        """
        ...

    def notes(self) -> Sequence[str]:
        """Lines for `apt-plugin doctor`."""
        ...
