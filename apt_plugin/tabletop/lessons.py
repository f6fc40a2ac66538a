"""What the tiny VLM is asked while it is grounded: random scenes, prompts as the host writes them, and the answers.

Shape legend: `B` scenes, `O` objects, `L` prompt tokens, `N` = 9 cells = image tokens, `P` image side in pixels.
"""

import numpy as np
import torch

from apt_plugin.tabletop import tokenizer
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.drawing import COLOURS, SHAPES
from apt_plugin.tabletop.world import CELLS, OBJECTS, Episodes, World

PROMPT_LENGTH = 16  # tokens: "<bos> Task : grasp the red cube , State : 12 200 255 ; Action :"
FIRST_WORD, LAST_WORD = 3, 6  # of the instruction, after "<bos> Task :"
_SCENE_STREAM = 3


def scenes(world: World, count: int, seed: int, held_out: bool = False) -> Episodes:
    """Random scenes: any objects, any background but those of the `environment` split.

    Args:
        held_out: name only pairs inside `world.never_named`; else only pairs outside.
    """
    rng = np.random.default_rng([world.seed, _SCENE_STREAM, seed])
    held = np.zeros((len(COLOURS), len(SHAPES)), bool)
    held[tuple(np.array(world.never_named).T)] = True
    background = rng.integers(24, size=count)
    background += np.where(background >= world.families, world.new_backgrounds, 0)
    every = np.array([(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))])
    chosen = every[rng.random((count, len(every))).argsort(axis=1)[:, :OBJECTS]]
    wanted = held[chosen[..., 0], chosen[..., 1]] == held_out
    named = np.where(wanted, rng.random(wanted.shape), -1.0).argmax(axis=1)
    episodes = world.stage(rng, background, chosen, named, np.full(count, -1), np.zeros(count, bool))
    return episodes[np.flatnonzero(wanted.any(axis=1))]


class Lessons:
    """Scenes as tensors: images, prompts and the answers to both objectives, drawn once."""

    def __init__(self, world: World, episodes: Episodes, partial: float = 0.0, seed: int = 0):
        """`partial`: share of expressions that give one attribute only ("the red thing", "the any cube") and
        may fit several objects."""
        count, rows = len(episodes), np.arange(len(episodes))
        rng = np.random.default_rng(seed)
        ids = {word: index for index, word in enumerate(tokenizer.vocabulary())}
        self.images = torch.from_numpy(episodes.render(episodes.start)).permute(0, 3, 1, 2).contiguous()
        stats = reference_stats(world)["observation.state"]
        low, high = stats["q01"], np.maximum(stats["q99"], stats["q01"] + 1e-8)
        scaled = 2 * (episodes.start - low) / (high - low) - 1
        bins = np.digitize(scaled, np.linspace(-1, 1, 257)[:-1]) - 1
        self.tokens = torch.zeros(count, PROMPT_LENGTH, dtype=torch.long)
        # 0: both attributes, 1: colour only, 2: shape only. A partial expression may be about any object in
        # view.
        kind = np.where(rng.random(count) < partial, rng.integers(1, 3, size=count), 0)
        about = np.where(kind > 0, rng.integers(OBJECTS, size=count), episodes.named)
        for row, text in enumerate(episodes.about(about).instructions()):
            verb, the, colour, shape = text.split()
            said = [verb, the, "any" if kind[row] == 2 else colour, "thing" if kind[row] == 1 else shape]
            words = ["<bos>", "Task", ":", *said, ",", "State", ":", *map(str, bins[row]), ";", "Action", ":"]
            self.tokens[row, : len(words)] = torch.tensor([ids[word] for word in words])
        fits = episodes.pairs == episodes.pairs[rows, about][:, None]  # (B, O, 2): same colour, same shape
        fits = (fits[..., 0] | (kind == 2)[:, None]) & (fits[..., 1] | (kind == 1)[:, None])
        answer = np.zeros((count, CELLS**2), np.float32)
        answer[rows[:, None], _cells(episodes.places)] = fits / fits.sum(axis=1, keepdims=True)
        self.answer = torch.from_numpy(answer)  # (B, N), a distribution
        self.location = torch.tensor([ids[name] for name in tokenizer.LOCATIONS])
        self.colour_ids = torch.tensor([ids[word] for word in COLOURS])
        self.shape_ids = torch.tensor([ids[word] for word in SHAPES])
        # Naming: class len(COLOURS) / len(SHAPES) is "table".
        colour = np.full((count, CELLS**2), len(COLOURS))
        shape = np.full((count, CELLS**2), len(SHAPES))
        colour[rows[:, None], _cells(episodes.places)] = episodes.pairs[..., 0]
        shape[rows[:, None], _cells(episodes.places)] = episodes.pairs[..., 1]
        self.colour, self.shape = torch.from_numpy(colour), torch.from_numpy(shape)
        self.table = ids["table"]

    def __len__(self) -> int:
        return len(self.images)


def _cells(places: np.ndarray) -> np.ndarray:
    column, row = (np.clip((places[..., axis] * CELLS).astype(int), 0, CELLS - 1) for axis in (0, 1))
    return row * CELLS + column
