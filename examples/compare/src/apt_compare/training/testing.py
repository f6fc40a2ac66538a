"""What a trained policy does: rollouts on every split, and the cheap numbers of `listen` on held-out frames.

F frames   I instructions per frame
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import ACTION
from safetensors.torch import load_file

from apt_compare.training.pools import observed
from apt_plugin.backends import torch_evidence
from apt_plugin.backends.torch_evidence import pooled_values
from apt_plugin.backends.torch_listen import TorchContext
from apt_plugin.hosts.lerobot.groups import part_of
from apt_plugin.hosts.lerobot.names import WEIGHTS
from apt_plugin.listen import scores as listen_scores
from apt_plugin.listen.causes.retention import retention
from apt_plugin.listen.instructions import Variant
from apt_plugin.listen.measure import Heard, listen_in
from apt_plugin.listen.subject import Frames
from apt_plugin.tabletop.data import frames
from apt_plugin.tabletop.rollout import evaluate
from apt_plugin.tabletop.world import OBJECTS, SPLITS, World

NUMBERS = ("retrieval", "margin", "sensitivity", "blank gap")


@dataclass
class Acting:
    """A body with its processors as `tabletop.rollout` wants an actor; chunks are executed to their end."""

    body: Any
    preprocessor: Any
    postprocessor: Any
    scale: float = 1.0

    def reset(self) -> None:
        self._queue: list[Any] = []

    def act(self, images: np.ndarray, state: np.ndarray, tasks: list[str]) -> np.ndarray:
        if not self._queue:
            with torch.inference_mode():
                batch = self.preprocessor(observed(images, state, tasks))
                blank = None
                if self.scale != 1.0 and not self.body.gated:
                    blank = self.preprocessor(observed(images, state, [""] * len(tasks)))
                chunk = self.body.sample(batch, blank, self.scale)
                self._queue = [self.postprocessor(each).numpy() for each in chunk.unbind(1)]
        return self._queue.pop(0)


def roll_out(actor: Any, world: World, episodes: int, seed: int) -> dict[str, dict[str, Any]]:
    """split -> k of n episodes, and where the arm went."""
    found = evaluate(actor, world, tuple(SPLITS), episodes, seed, batch=episodes, keep_frames=0, progress=False)
    return {
        split: {
            "k": result.counts[0],
            "n": result.counts[1],
            "where": dict(zip(*(part.tolist() for part in np.unique(result.where, return_counts=True)), strict=True)),
        }
        for split, result in found.items()
    }


class HeldOut:
    """First frames of demonstrations that no run trains on, as the subject that `listen_in` asks."""

    def __init__(self, body: Any, preprocessor: Any, world: World, count: int, seed: int):
        self.body, self.preprocessor, self.gated = body, preprocessor, body.gated
        self.facts: dict[str, str] = {}
        self.steps = body.steps
        drawn = world.training(4 * count, seed + 77_000).by_legs()  # one leg each: a chained one names two objects
        self.episodes = next(part for part in drawn if part.legs == 1)[:count]
        count = len(self.episodes)
        images, states, actions = frames(self.episodes)
        self.images, self.states = images[:, 0], states[:, 0]
        texts = self.episodes.instructions()
        done = preprocessor(observed(self.images, self.states, texts, actions[:, : body.horizon]))
        chunks = body.actions({ACTION: done[ACTION]}).numpy()
        valid = np.ones(chunks.shape[:2], bool)
        self.frames = Frames(np.arange(count), np.zeros(count), tuple(texts), chunks, valid, self.images, body.width)

    def variants(self) -> list[list[Variant]]:
        """The true instruction, the same verb about the other objects in view, and none."""
        count = len(self.episodes)
        about = [self.episodes.about(np.full(count, slot)).instructions() for slot in range(OBJECTS)]
        rows = []
        for row, own in enumerate(self.frames.task):
            others = list(dict.fromkeys(texts[row] for texts in about if texts[row] != own))[: OBJECTS - 1]
            rows.append([Variant(own, "true"), *(Variant(text, "swap") for text in others), Variant("", "blank")])
        return rows

    def context(self, rows: Sequence[int], texts: Sequence[str]) -> Any:
        index = list(rows)
        batch = self.preprocessor(observed(self.images[index], self.states[index], list(texts)))
        return _Context(self.body, batch)

    def read(self, rows: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        """As `listen.evidence.Evidence.read`: what is asked for by retention."""
        return self.context(rows, texts).read()


class _Context(TorchContext):
    def __init__(self, body: Any, batch: Any):
        super().__init__(torch.device("cpu"))
        self.body = body
        with torch.inference_mode():
            self.prefix = body.ready(body.prefix(batch))

    def compute(self, x: torch.Tensor, time: torch.Tensor, language: bool) -> torch.Tensor:
        return self.body.velocity(self.prefix, x, time, language)

    def read(self) -> np.ndarray:
        return pooled_values(self.prefix.v, self.prefix.kept | self.prefix.spoken)


def heard(
    held_out: HeldOut, seed: int, scales: Sequence[float] = (), start: Path | None = None, draws: int = 4
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """`NUMBERS`, and the loss of the demonstrated chunk under its own instruction: the policy's own, and by guidance
    scale. No intervals, these are cheap. `start`: what training began with, where it moved the VLM, for retention."""
    variants = held_out.variants()
    made = listen_in(held_out, variants, draws, 256, seed, scales, progress=False)  # type: ignore[arg-type]
    swept = {
        f"{scale:g}": _numbers(Heard(made.frames, made.variants, losses, actions, None, 0.0, 0))
        for scale, (losses, actions) in made.guidance.items()
    }
    numbers = _numbers(made)
    if start is not None:
        own = {name: p for name, p in held_out.body.policy.named_parameters() if part_of(name) == "vlm"}
        base = torch_evidence.Beside(own, load_file(start / WEIGHTS), str(start))
        tasks = list(dict.fromkeys(held_out.frames.task))
        numbers["retention"] = retention(held_out.frames.task, tasks, held_out, base) or 0.0  # type: ignore[arg-type]
    return numbers, swept


def _numbers(made: Heard) -> dict[str, float]:
    out = {"loss": float(made.losses[:, 0].mean())}
    for name, (top, bottom, _) in listen_scores.per_frame(made).items():
        ok = np.isfinite(top) & np.isfinite(bottom)
        if name in NUMBERS and ok.any():
            out[name] = float(top[ok].sum() / max(bottom[ok].sum(), 1e-12))
    return out
