"""Demonstrations as processed tensors in memory, under every wording that an arm trains on.

    N frames, labelled ones first   W wordings   T action tokens   A action dimensions   S prefix tokens   L text tokens

The host's own processors run once; what a frozen VLM makes of a frame is computed once, too, and then picked by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import ACTION
from torch import Tensor

from apt_plugin.backends.torch_pi import PrefixCache
from apt_plugin.tabletop import arm as arm_dynamics
from apt_plugin.tabletop.data import CAMERA, frames
from apt_plugin.tabletop.world import CELLS, OBJECTS, Episodes

BLOCK = 512  # frames processed at once


@dataclass(frozen=True)
class Raw:
    """Frames as a data set would give them: images uint8 [N, P, P, 3], states [N, 3], chunks [N, T, 3], and the texts
    of each wording, N each; `episode` int [N]; `length`: frames of an episode. Of `labelling`, where it asks: `likely`
    float [N, I], log p(asked instruction | scene); `truth` int [N], which of them it was (-1: none), for the report
    alone."""

    images: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    texts: dict[str, list[str]]
    episode: np.ndarray
    length: int
    truth: np.ndarray
    likely: np.ndarray
    goals: np.ndarray | None = None  # [N, 3], the state that the first wording is told beside the frame's own

    def __len__(self) -> int:
        return len(self.images)


def every(episodes: Episodes, labelled: bool, negatives: str = "", seed: int = 0) -> list[Raw]:
    """`raw` of single and of chained episodes, which differ in length."""
    known = sorted(set(episodes.instructions()))
    return [raw(part, labelled, known, negatives, seed) for part in episodes.by_legs()]


def raw(episodes: Episodes, labelled: bool, known: Sequence[str] = (), negatives: str = "", seed: int = 0) -> Raw:
    """Every frame of the episodes' demonstrations; a chunk that runs over the end repeats the last action, as lerobot's
    reader does.

    Args:
        known: instructions of the training data; other instructions for a contrast come from them alone, since a
            trainer has no others: a pair that is never named is not named here either.
        negatives: "scene", "data" or "" (none).
    """
    images, states, actions = frames(episodes)
    count, length = actions.shape[:2]
    steps = np.minimum(np.arange(length)[:, None] + np.arange(arm_dynamics.HORIZON), length - 1)
    chunks = actions[:, steps].reshape(count * length, arm_dynamics.HORIZON, -1)
    said = episodes.instructions() if labelled else [""] * count
    texts = {"true": said, "blank": [""] * count}
    if negatives:
        others = other_instructions(episodes, said, known, negatives, seed)
        texts |= {f"other{k}": [row[k] for row in others] for k in range(2)}
    per_frame = {name: [text for text in row for _ in range(length)] for name, row in texts.items()}
    number = np.repeat(np.arange(count), length)
    return Raw(
        images.reshape(-1, *images.shape[2:]), states.reshape(-1, states.shape[-1]), chunks, per_frame, number, length,
        truth=np.full(len(number), -1), likely=np.zeros((len(number), 0)),
    )  # fmt: skip


def other_instructions(
    episodes: Episodes, said: Sequence[str], known: Sequence[str], negatives: str, seed: int
) -> list[list[str]]:
    """Two instructions per episode that differ from its own, from `known`; those about objects in view first, where
    negatives is "scene"."""
    rng, choices = np.random.default_rng([seed, 21]), sorted(set(known))
    about = [episodes.about(np.full(len(episodes), slot)).instructions() for slot in range(OBJECTS)]
    out = []
    for row, own in enumerate(said):
        near = [a[row] for a in about if a[row] != own and a[row] in set(choices)] if negatives == "scene" else []
        far = [text for text in choices if text != own and text not in near]
        picked = [*rng.permutation(np.array(near, dtype=object)), *rng.permutation(np.array(far, dtype=object))[:2]]
        out.append([str(text) for text in picked[:2]] if own else ["", ""])
    return out


def joined(parts: Sequence[Raw], wordings: Sequence[str]) -> Raw:
    """Labelled then unlabelled frames; a part that lacks a wording (unlabelled: other instructions) has its own."""
    texts = {
        name: [text for part in parts for text in part.texts.get(name, part.texts["true"])]
        for name in ("true", *wordings)
    }
    names = ("images", "states", "actions", "truth")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    asked = max(part.likely.shape[1] for part in parts)
    grow = lambda x: np.pad(x, [(0, 0), (0, asked - x.shape[1])], constant_values=-np.inf)  # noqa: E731
    likely = [grow(part.likely) for part in parts]
    firsts = np.cumsum([0, *(part.episode.max() + 1 for part in parts)])
    episode = np.concatenate([part.episode + first for part, first in zip(parts, firsts, strict=False)])
    length = max(part.length for part in parts)
    return Raw(**arrays, texts=texts, episode=episode, length=length, likely=np.concatenate(likely))


@dataclass
class Pool:
    """Processed frames. `batch(rows, wording)` is what the host's loader and processors would hand to the policy."""

    shared: dict[str, Tensor]  # [N, ...]: images, state, action
    language: dict[str, Tensor]  # [W * N, L]: wording by wording
    wordings: tuple[str, ...]
    labelled: int  # frames; the rest is unlabelled
    cells: Tensor  # [N], the table's cell in which a chunk ends
    said: list[Tensor]  # per wording bool [N]: it has words for that frame
    episode: Tensor  # [N]
    truth: Tensor  # [N], for the report alone
    likely: Tensor  # [N, I], of self-labelling
    prefixes: Any = field(default=None)  # what `body.store` returned: has `pick(place)`

    def __len__(self) -> int:
        return len(self.shared[ACTION])

    def place(self, rows: Tensor, wording: str | Tensor) -> Tensor:
        """Index into wording-by-wording tensors; a wording's name for all rows, or a number per row."""
        number = self.wordings.index(wording) if isinstance(wording, str) else wording
        return rows + number * len(self)

    def batch(self, rows: Tensor, wording: str | Tensor = "true") -> dict[str, Tensor]:
        place = self.place(rows, wording)
        out = {name: value[rows] for name, value in self.shared.items()}
        return out | {name: value[place] for name, value in self.language.items()}


def process(body: Any, preprocessor: Any, frames: Raw, labelled: int) -> Pool:
    """Run the host's processors over every frame and wording."""
    shared: dict[str, list[Tensor]] = {}
    language: dict[str, list[Tensor]] = {}
    for turn, texts in enumerate(frames.texts.values()):
        for first in range(0, len(frames), BLOCK):
            part = slice(first, first + BLOCK)
            states = frames.states[part]
            if frames.goals is not None and turn == 0:
                states = np.stack([states, frames.goals[part]], 1)
            done = preprocessor(observed(frames.images[part], states, texts[part], frames.actions[part]))
            fixed, spoken = body.pack(done, len(texts[part]))
            for target, found in ((shared, fixed if turn == 0 else {}), (language, spoken)):
                for name, value in found.items():
                    target.setdefault(name, []).append(value)
    ends = (torch.from_numpy(frames.actions[:, -1, :2]) * CELLS).long().clamp(0, CELLS - 1)
    cells = ends[:, 1] * CELLS + ends[:, 0]
    fixed = {name: torch.cat(values) for name, values in shared.items()}
    said = [torch.tensor([bool(text) for text in texts]) for texts in frames.texts.values()]
    episode, about, likely = map(torch.from_numpy, (frames.episode, frames.truth, frames.likely))
    spoken = {name: _even(parts) for name, parts in language.items()}
    return Pool(fixed, spoken, tuple(frames.texts), labelled, cells, said, episode, about, likely)


def _even(parts: Sequence[Tensor]) -> Tensor:
    """Blocks of prompts as one tensor; a host that pads to the longest of a batch (GR00T) pads on the left, with 0."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (longest - part.shape[1], 0)) for part in parts])


def observed(images: np.ndarray, states: np.ndarray, texts: Sequence[str], actions: np.ndarray | None = None) -> dict:
    """A batch as lerobot's loader stacks it."""
    out: dict[str, Any] = {
        CAMERA: torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
        "observation.state": torch.from_numpy(states),
        "task": list(texts),
    }
    return out if actions is None else out | {ACTION: torch.from_numpy(actions)}


@dataclass(frozen=True)
class StoredPrefixes:
    """`PrefixCache` of every frame and wording, layers side by side, so that a batch is one copy."""

    kv: Tensor  # [W * N, 2 * depth, G, S, C]
    kept: Tensor  # [W * N, S]
    spoken: Tensor
    offset: Tensor  # [W * N]

    def pick(self, place: Tensor) -> PrefixCache:
        layers = self.kv[place].unbind(1)
        depth = len(layers) // 2
        return PrefixCache(
            list(layers[:depth]), list(layers[depth:]), self.kept[place], self.spoken[place], self.offset[place]
        )


@torch.no_grad()
def store(body: Any, pool: Pool) -> StoredPrefixes:
    """Compute every prefix once, with the policy's own VLM as it is now."""
    parts = []
    for wording in pool.wordings:
        for rows in torch.arange(len(pool)).split(BLOCK):
            cache = body.prefix(pool.batch(rows, wording))
            parts.append((torch.stack([*cache.k, *cache.v], 1), cache.kept, cache.spoken, cache.suffix_offset))
    longest = max(kept.shape[1] for _, kept, _, _ in parts)  # a batch of short prompts has been cut
    grow = lambda x, dim: torch.nn.functional.pad(  # noqa: E731
        x, [0, 0] * (x.dim() - 1 - dim) + [0, longest - x.shape[dim]]
    )
    return StoredPrefixes(
        torch.cat([grow(kv, 3) for kv, _, _, _ in parts]),
        torch.cat([grow(kept, 1) for _, kept, _, _ in parts]),
        torch.cat([grow(spoken, 1) for _, _, spoken, _ in parts]),
        torch.cat([offset for _, _, _, offset in parts]),
    )


def first_images(body: Any, preprocessor: Any, frames: Raw) -> np.ndarray:
    """Frozen features of the first image of every episode, pooled: [episodes, C]. No word takes part."""
    rows = slice(None, None, frames.length)
    done = preprocessor(observed(frames.images[rows], frames.states[rows], [""] * len(frames.images[rows])))
    return body.features(done)
