"""A policy in which everything is as it should be, and one by one what a test breaks in it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from apt_plugin.listen.evidence import Arrived, Evidence, Tensor
from apt_plugin.listen.subject import Context, Frames, Listener

TASKS = ("pick up the red cup", "push the blue block", "place the bowl on the left")


def trained(name: str, vlm: bool, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, vlm, shape, -0.31, 0.42, 0.05)


def fresh(tensor: Tensor) -> Tensor:
    """As torch starts a linear layer."""
    bound = tensor.shape[1] ** -0.5
    return dataclasses.replace(tensor, low=-0.9999 * bound, high=0.9999 * bound, std=bound / 3**0.5)


def flat(tensor: Tensor) -> Tensor:
    return dataclasses.replace(tensor, low=1.0, high=1.0, std=0.0)


SOUND = [
    *(trained(f"vlm.language.layers.{i}.norm.weight", True, (64,)) for i in range(6)),
    *(trained(f"vlm.vision.layers.{i}.bias", True, (64,)) for i in range(6)),
    trained("vlm.language.embed_tokens.weight", True, (256, 64)),
    trained("expert.action_out.weight", False, (32, 64)),
]


class Sound(Evidence):
    """A policy in which everything is as it should be; a test breaks one thing."""

    def __init__(self, seed: int = 0):
        self.parameters, self.seed, self.limit, self.turn = list(SOUND), seed, 96, 0.05
        self.words: Callable[[str], str] = lambda text: text
        self.based = True

    def tensors(self) -> list[Tensor]:
        return self.parameters

    def labels(self) -> Sequence[str]:
        return [*TASKS, ""]

    def arrived(self, frames: Sequence[int], texts: Sequence[str]) -> list[Arrived]:
        out = []
        for frame, text in zip(frames, texts, strict=True):
            whole = f"<bos>Task: {self.words(text)}, State: {frame} 7;\nAction: "[: self.limit]
            out.append(Arrived(tuple(map(ord, whole)), whole, self.limit))
        return out

    def state(self) -> np.ndarray:
        return np.random.default_rng(self.seed).standard_normal((24, 5))

    def read(self, frames: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        """A direction for each text, turned away from the base's by training."""
        seeds = [sum(map(ord, text)) for text in texts]
        base = np.stack([np.random.default_rng(s).standard_normal(64) for s in seeds])
        other = np.stack([np.random.default_rng(s + 1000).standard_normal(64) for s in seeds])
        return base if self.based else base + self.turn * other


class Beside:
    def __init__(self, evidence: Sound, distance: float = 0.01):
        self.evidence, self.far = evidence, distance

    def digest(self) -> str:
        return "0" * 64

    def distance(self) -> float:
        return self.far

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        self.evidence.based = True
        yield
        self.evidence.based = False


class Policy(Listener):
    def __init__(self, evidence: Sound):
        rng = np.random.default_rng(evidence.seed)
        actions = rng.uniform(-1, 1, (24, 5, 3)).astype(np.float32)
        task, ones = TASKS * 8, np.ones((24, 5), bool)
        self.frames = Frames(np.arange(24), np.zeros(24), task, actions, ones, np.zeros((24, 8, 8, 3), np.uint8), 3)
        self.tasks: Sequence[str] = sorted(TASKS)
        self.told, evidence.based = evidence, False

    def context(self, frames: Sequence[int], texts: Sequence[str]) -> Context:
        raise AssertionError("a cheap cause needs no velocity")

    def evidence(self) -> Sound:
        return self.told

    def act(self, change: Callable[[np.ndarray], Any]) -> None:
        """Actions as other statistics would have normalised them."""
        actions = self.frames.actions.copy()
        change(actions)
        self.frames = dataclasses.replace(self.frames, actions=actions)
