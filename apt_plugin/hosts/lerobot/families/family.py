"""What a family of policies says of itself, in one object: `families/<name>/__init__.py` has it.

Importing one imports neither lerobot nor torch; what needs them is behind a method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apt_plugin import families
from apt_plugin.canaries import Canary
from apt_plugin.errors import AptError
from apt_plugin.export import refuse_pi
from apt_plugin.language import Segment
from apt_plugin.probes import Probe
from apt_plugin.vlm import Trained

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Family(ABC):
    """See the subclasses for what each line is good for."""

    rules: families.Rules  # what of a recipe it follows
    policies: Mapping[str, str]  # lerobot's policy type -> ours
    vlm: str  # what the names of the VLM's parameters have, and no others
    unused: Sequence[str] = ()  # the same of parameters that never see a gradient
    switches: Sequence[str]  # fields of the config that say what of the VLM trains
    switches_in_recipe: bool = False  # whether the recipe takes them over (the config then must not say it again)
    expert_only: Mapping[str, str]  # flags by which the host freezes it
    still: Sequence[str] = ()  # patterns of `Trained.still`, as records hold them
    precision: str = ""  # the flag that asks for bfloat16 on a GPU; "" where the config's own default does
    schedule: Mapping[str, int]  # flag of a length in steps -> the host's default
    fields: Sequence[str] = ()  # of the config: what Stage 2 must have in common with its Stage 1
    probes: Sequence[Probe] = ()
    prompt_steps: Sequence[str] = ()  # host's processor steps that write the prompt as one string; ours replaces them

    @abstractmethod
    def register(self) -> None:
        """Make its policy types known to lerobot: importing their configs does."""

    @abstractmethod
    def canaries(self) -> Sequence[Canary]:
        """What its models must do; imports the host."""

    @abstractmethod
    def trained(self, value: Mapping[str, object]) -> Trained:
        """What the host's own training command trains of the VLM.

        Args:
            value: `switches` -> what each is; one that is left out is off.

        Raises:
            AptError: what no recipe can follow.
        """

    def rules_of(self, kind: str) -> families.Rules:
        """What of a recipe a policy type follows: a goal is written where the state is."""
        return replace(self.rules, goals=self.writes_state(kind))

    def renames(self, files: Sequence[Path], kind: str) -> dict[str, str]:
        """Name in a stock checkpoint's files -> name in the policy, where they differ; kind: the host's type."""
        return {}

    # -- the prompt -----------------------------------------------------------------------------------------

    def writes_state(self, kind: str) -> bool:
        """Whether the prompt holds the robot's state, in digits."""
        return False

    def segments(self, kind: str, task: str | None, digits: str) -> list[Segment]:
        """The host's prompt, instruction and template apart; not asked of a family whose processors stay."""
        raise AptError(f"{kind} has no prompt of its own.")

    # -- proofs ---------------------------------------------------------------------------------------------

    def watched(self) -> Mapping[Any, Sequence[str]]:
        """Host module -> names that building a policy rebinds for a moment."""
        return NOTHING

    @abstractmethod
    def subject(self, policy: Any, preprocessor: Any, folder: Path, changed: Callable[[], list[str]]) -> Any:
        """A checkpoint for `apt_plugin.proofs`; changed: which `watched` names are others since before it was built."""

    # -- the feature cache ----------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, policy: Any, batch: dict[str, Any], kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The entries of a processed batch [B], and what they consist of; kind: one of `rules.caches`."""

    @abstractmethod
    def layers(self, policy: Any, kind: str) -> Any:
        """Which layers' outputs are stored, for the stamp."""

    @abstractmethod
    def computes_in(self, policy: Any) -> str:
        """In which precision the VLM computes: float32 or bfloat16."""

    def autocasts(self, config: Any) -> bool:
        """Whether training runs under bfloat16 autocast."""
        return False

    def half(self, config: Any) -> bool:
        """Whether at least its VLM is held in bfloat16 while it trains."""
        return self.autocasts(config)

    # -- listen, bench, export ------------------------------------------------------------------------------

    def listening(self) -> Any:
        """See `listening.Listening`."""
        from apt_plugin.hosts.lerobot.listening import Listening

        return Listening()

    @abstractmethod
    def bench(self, kind: str, size: str, device: str, batch: int | None, checkpointing: bool) -> Any:
        """The rows of `apt-plugin bench` for a policy type of the host."""

    def export(self, folder: Path, output: Path) -> None:
        """A stock checkpoint where folding is exact.

        Raises:
            AptError: it is not.
        """
        refuse_pi(folder)
