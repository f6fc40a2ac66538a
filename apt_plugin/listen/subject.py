"""What `listen` asks of a policy. A host adapter answers it; nothing here knows a framework.

    F frames   B (frame, instruction) pairs   D draws   T action tokens   A action dimensions

Time runs as in openpi: 1 is noise, 0 is the action chunk; x = t * noise + (1 - t) * actions, and the velocity is
noise - actions. A host that counts the other way round (GR00T) is turned in its adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.listen.evidence import Evidence


@dataclass(frozen=True)
class Frames:
    """Frames of the policy's own data set, in the policy's normalised action space.

    `episode` int [F]; `position` float [F], 0 at an episode's first frame and 1 at its last; `task` F strings;
    `actions` float32 [F, T, A], the demonstrated chunk, padded as the model pads; `width`: how many of the A dimensions
    are the robot's; `valid` bool [F, T], False behind the end of an episode;
    `pictures` uint8 [F, H, W, 3], the first camera, for the page.
    """

    episode: np.ndarray
    position: np.ndarray
    task: tuple[str, ...]
    actions: np.ndarray
    valid: np.ndarray
    pictures: np.ndarray
    width: int

    @property
    def shown(self) -> np.ndarray:
        """The demonstrated chunks without padded dimensions."""
        return self.actions[..., : self.width]

    def __len__(self) -> int:
        return len(self.task)

    def check(self) -> None:
        """
        Raises:
            AptError: no frames, no instruction, or not two different ones: nothing could be compared.
        """
        if not len(self):
            raise AptError("The data set gave no frames: it is empty, or every episode was filtered out.")
        texts = {text for text in self.task if text.strip()}
        if not texts:
            raise AptError("No frame has an instruction; listen needs labelled data (Stage 1 alone does not).")
        if not np.isfinite(self.actions).all():
            raise AptError("The demonstrated actions are not all finite: check the data set and its statistics.")


class Context(Protocol):
    """The prefix of B (frame, instruction) pairs, computed once and shared by all draws."""

    def velocity(self, x: np.ndarray, time: np.ndarray, language: bool = True) -> np.ndarray:
        """x float32 [B, D, T, A], time float32 [B, D] -> [B, D, T, A]; `language` False closes the gates."""
        ...


class Listener(Protocol):
    """A policy with frames of its data set. Who inherits needs `frames`, `tasks` and `context`; all else has answers of
    a policy without gates whose inside is not looked at."""

    frames: Frames
    tasks: Sequence[str]  # every instruction of the data set
    steps: int = 10  # Euler steps of the host's sampler
    gated: bool = False  # Stage 2 of the recipe: closing the gates gives the prior
    facts: Mapping[str, str] = {}  # host, policy, stage: for the page; nobody writes into it
    # May also have `began`: the VLM's SHA-256 at the start of the stage, from the checkpoint's own record.

    def context(self, frames: Sequence[int], texts: Sequence[str]) -> Context: ...

    def first_frames(self) -> tuple[np.ndarray, list[str]]:
        """Frozen image features [N, C] of the first frames of N episodes, and their instructions."""
        _, first = np.unique(self.frames.episode, return_index=True)
        return self.features(first.tolist()), [self.frames.task[row] for row in first]

    def features(self, frames: Sequence[int]) -> np.ndarray:
        """The same features of chosen frames [len(frames), C]; by default the pictures' pixels, every eighth."""
        chosen = self.frames.pictures[list(frames)][:, ::8, ::8]
        return chosen.reshape(len(chosen), -1).astype(np.float32) / 255

    def gates(self) -> dict[str, float]:
        """Opening per fusion layer; empty for a stock policy."""
        return {}

    def attention(self, frames: Sequence[int]) -> dict[str, float] | str:
        """Layer -> share of attention on the instruction (a host that cannot tell it apart: on text), its mean over
        these frames; a sentence where that is unknown."""
        return "This policy does not show its attention."

    def evidence(self) -> Evidence:
        """Facts that cheap causes are ruled out by."""
        return Evidence()

    def model_card(self) -> str:
        """A card by the host's own template; "" where the host has none."""
        return ""

    def digest(self) -> str:
        """SHA-256 over the VLM's parameters; "" where nobody says."""
        return ""


class Beside:
    """A policy without gates beside itself under no instruction: that stands where closed gates stand."""

    def __init__(self, instructed: Context, blank: Context):
        self._instructed, self._blank = instructed, blank

    def velocity(self, x: np.ndarray, time: np.ndarray, language: bool = True) -> np.ndarray:
        return (self._instructed if language else self._blank).velocity(x, time)


def sample(context: Context, noise: np.ndarray, steps: int, language: bool = True, scale: float = 1.0) -> np.ndarray:
    """The host's forward-Euler loop from noise [B, D, T, A] to action chunks."""
    x = noise
    for step in range(steps):
        time = np.full(noise.shape[:2], 1.0 - step / steps, np.float32)
        x = x - guided(context, x, time, language, scale) / steps
    return x


def guided(context: Context, x: np.ndarray, time: np.ndarray, language: bool = True, scale: float = 1.0) -> np.ndarray:
    """v_prior + scale * (v_language - v_prior); scale 1 is the plain policy and costs one pass. Without gates, the
    velocity under an empty instruction is the prior's (`Beside`)."""
    if not language or scale == 1.0:
        return context.velocity(x, time, language)
    prior = context.velocity(x, time, False)
    return prior if scale == 0.0 else prior + np.float32(scale) * (context.velocity(x, time) - prior)


def facts_of(**values: Any) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value not in (None, "")}
