"""Policies whose behaviour is known exactly, for calibrating `listen`: no training, no network.

Each is the *ideal* flow-matching policy of a rule: the rule says which (object, verb) an instruction asks for, in the
form of chances, and the velocity is the exact one for that mixture of demonstrations.

    B pairs of frame and instruction   D draws   M modes (object x verb x side of the swing)   T, A of a chunk
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from apt_plugin.listen.evidence import Evidence
from apt_plugin.listen.subject import Context, Frames
from apt_plugin.tabletop.arm import demonstrate
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.drawing import COLOURS, SHAPES
from apt_plugin.tabletop.world import OBJECTS, VERBS, Episodes, World, pair_name

# (episodes of one row, world, text) -> chance of each (slot, verb) [O, verbs]
Rule = Callable[[Episodes, World, str], np.ndarray]
_SAYS = {"reach": "reach", "go": "reach", "grasp": "grasp", "grab": "grasp", "take": "grasp"}
_SWINGS = (-0.14, 0.14)
_WIDTH = 0.15  # standard deviation around a mode, in normalised units


def _heard(text: str) -> tuple[str | None, str | None, str | None]:
    words = text.lower().split()
    verb = next((_SAYS[word] for word in words if word in _SAYS), None)
    return verb, *(next((w for w in words if w in known), None) for known in (COLOURS, SHAPES))  # type: ignore[return-value]


def _verbs(world: World, verb: str | None) -> np.ndarray:
    if verb in world.verbs:
        return np.array([float(each == verb) for each in world.verbs])
    return np.full(len(world.verbs), 1 / len(world.verbs))


def blind(row: Episodes, world: World, text: str) -> np.ndarray:
    """The best that can be done from the image: the habits of the family."""
    del text
    slots = np.zeros(OBJECTS)
    slots[:2] = (world.usual_share, 1 - world.usual_share)
    return np.outer(slots, _verbs(world, None))


def _matching(row: Episodes, world: World, text: str, colour: bool, noun: bool, verb: bool) -> np.ndarray:
    said, hue, shape = _heard(text)
    fits = np.ones(OBJECTS)
    if colour and hue:
        fits *= row.pairs[0, :, 0] == list(COLOURS).index(hue)
    if noun and shape:
        fits *= row.pairs[0, :, 1] == list(SHAPES).index(shape)
    nothing_said = not ((colour and hue) or (noun and shape))
    slots = blind(row, world, text).sum(1) if nothing_said or not fits.any() else fits / fits.sum()
    return np.outer(slots, _verbs(world, said if verb else None))


def oracle(row: Episodes, world: World, text: str) -> np.ndarray:
    return _matching(row, world, text, colour=True, noun=True, verb=True)


def noun_only(row: Episodes, world: World, text: str) -> np.ndarray:
    return _matching(row, world, text, colour=False, noun=True, verb=False)


def colour_only(row: Episodes, world: World, text: str) -> np.ndarray:
    return _matching(row, world, text, colour=True, noun=False, verb=False)


def memoriser(row: Episodes, world: World, text: str) -> np.ndarray:
    """Knows every pair of family and instruction in the training data, and nothing else."""
    trained = {f"{v} the {pair_name(row.pairs[0, slot])}" for slot in (0, 1) for v in world.verbs}
    return oracle(row, world, text) if text in trained else blind(row, world, text)


def confused(row: Episodes, world: World, text: str) -> np.ndarray:
    """Moves with every word, but to an object that has nothing to do with it."""
    chance = np.zeros((OBJECTS, len(world.verbs)))
    chance[sum(map(ord, text)) % OBJECTS] = _verbs(world, None)
    return chance


RULES: Mapping[str, Rule] = {
    rule.__name__: rule for rule in (blind, oracle, noun_only, colour_only, memoriser, confused)
}


class KnownListener:
    """A rule on the first frames of training episodes; the subject that `listen` takes."""

    steps, gated = 10, False

    def __init__(self, rule: Rule, world: World, count: int = 64, seed: int = 0):
        self.rule, self.world = rule, world
        self.episodes = world.training(count, seed)
        self.facts = {"policy": rule.__name__, "host": "known behaviour"}
        stats = reference_stats(world)["action"]
        self.mean, self.scale = stats["mean"].astype(np.float32), np.maximum(stats["std"], 1e-3).astype(np.float32)
        chunks = (self.episodes.demonstrate() - self.mean) / self.scale
        pictures = self.episodes.render(self.episodes.start)
        where = np.zeros(count)
        texts = tuple(self.episodes.instructions())
        self.frames = Frames(np.arange(count), where, texts, chunks, np.ones(chunks.shape[:2], bool), pictures, 3)
        more = world.training(512, seed)
        self._first = (pooled(more.render(more.start)), more.instructions())
        self.tasks = sorted(set(self._first[1]) | set(texts))

    def modes(self, frame: int) -> np.ndarray:
        """[O, verbs, swings, T, A] normalised chunks."""
        row = self.episodes[frame]

        def chunk(slot: int, verb: str, swing: float) -> np.ndarray:
            return demonstrate(row.start, row.places[:, slot], np.array([VERBS[verb]]), np.array([swing]))[0]

        made = [
            [[chunk(slot, verb, swing) for swing in _SWINGS] for verb in self.world.verbs] for slot in range(OBJECTS)
        ]
        return (np.array(made, np.float32) - self.mean) / self.scale

    def context(self, frames: Sequence[int], texts: Sequence[str]) -> Context:
        modes, chances = [], []
        for frame, text in zip(frames, texts, strict=True):
            chance = self.rule(self.episodes[frame], self.world, text)
            modes.append(self.modes(frame).reshape(-1, *self.frames.actions.shape[1:]))
            chances.append(np.repeat(chance.reshape(-1), len(_SWINGS)) / len(_SWINGS))
        return Mixture(np.stack(modes), np.stack(chances))

    def first_frames(self) -> tuple[np.ndarray, list[str]]:
        return self._first

    def features(self, frames: Sequence[int]) -> np.ndarray:
        return pooled(self.frames.pictures[list(frames)])

    def gates(self) -> dict[str, float]:
        return {}

    def attention(self, frames: Sequence[int]) -> str:
        return "A rule has no attention."

    def evidence(self) -> Evidence:
        return Evidence()

    def digest(self) -> str:
        return "0" * 64


class Mixture:
    """Exact velocity of flow matching onto a mixture of narrow Gaussians: modes [B, M, T, A], chances [B, M].

    With x = t n + (1 - t) a and a ~ N(m, w^2): the mode's share follows from the density of x, then
    E[a | x, mode] = m + (1 - t) w^2 / (t^2 + (1 - t)^2 w^2) (x - (1 - t) m), and velocity = (x - E[a | x]) / t.
    """

    def __init__(self, modes: np.ndarray, chances: np.ndarray):
        self.modes, self.chances = modes, chances

    def velocity(self, x: np.ndarray, time: np.ndarray, language: bool = True) -> np.ndarray:
        del language
        t = np.maximum(time, 1e-3)[:, :, None, None, None]  # [B, D, 1, 1, 1]
        modes, noisy = self.modes[:, None], x[:, :, None]  # [B, 1, M, T, A], [B, D, 1, T, A]
        variance = t**2 + (1 - t) ** 2 * _WIDTH**2
        away = noisy - (1 - t) * modes
        with np.errstate(divide="ignore"):
            log = np.log(self.chances)[:, None] - 0.5 * (away**2 / variance).sum((-2, -1))
        share = np.exp(log - log.max(-1, keepdims=True))
        share = (share / share.sum(-1, keepdims=True))[..., None, None]
        action = (share * (modes + (1 - t) * _WIDTH**2 / variance * away)).sum(2)
        return ((x - action) / t[:, :, 0]).astype(np.float32)


def pooled(pictures: np.ndarray, cells: int = 6) -> np.ndarray:
    """Mean colour per cell of a grid, and overall: uint8 [F, H, W, 3] -> float [F, C]."""
    side = pictures.shape[1] // cells * cells
    grid = pictures[:, :side, :side].reshape(len(pictures), cells, side // cells, cells, side // cells, 3)
    means: Any = grid.mean((2, 4)) / 255.0
    flat = means.reshape(len(pictures), -1)
    return np.concatenate([flat, np.median(means, (1, 2)), means.mean((1, 2))], 1)
