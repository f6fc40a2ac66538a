"""What the tiny VLM is asked while it is grounded: random scenes, prompts as the host writes them, and the answers.

Shape legend: `B` scenes, `O` objects, `L` prompt tokens, `N` = 9 cells = image tokens, `P` image side in pixels, `A`
objects pointed at (1; 2 in the full language, where an instruction may name two).
"""

import numpy as np
import torch
from torch import Tensor

from apt_plugin.tabletop import tokenizer
from apt_plugin.tabletop.data import reference_stats
from apt_plugin.tabletop.drawing import COLOURS, SHAPES
from apt_plugin.tabletop.splits import OBJECTS, TRAINED_COLOURS, TRAINED_SHAPES
from apt_plugin.tabletop.words import LONGEST, VERBS, other_forms, pair_name, say, ways
from apt_plugin.tabletop.world import CELLS, Episodes, World

FIRST_WORD = 3  # of the instruction, after "<bos> Task :"
#: Prompt tokens, without padding in the plain language: "<bos> Task : grasp the red cube , State : 12 200 255 ;
#: Action :".
PROMPT_LENGTHS = {language: words + 12 for language, words in LONGEST.items()}
PROMPT_LENGTH = PROMPT_LENGTHS["plain"]
LAST_WORD = FIRST_WORD + LONGEST["plain"] - 1  # of a plain instruction
_COMMA = tokenizer.vocabulary().index(",")
_SCENE_STREAM = 3
_PLAINLY, _CHAINED = 0.5, 0.25  # shares of plain wording and of two objects, full language


def scenes(world: World, count: int, seed: int, held_out: bool = False, language: str = "plain") -> Episodes:
    """Random scenes: any objects, any background but those of the `environment` split.

    Args:
        held_out: name only pairs inside `world.never_named`; else only pairs outside.
        language: "full" shows and names the unseen objects, too, half of the time in other words; a quarter of
            the instructions names two objects.
    """
    full = language == "full"
    rng = np.random.default_rng([world.seed, _SCENE_STREAM, seed])
    held = np.zeros((len(COLOURS), len(SHAPES)), bool)
    held[tuple(np.array(world.never_named).T)] = True
    background = rng.integers(24, size=count)
    background += np.where(background >= world.families, world.new_backgrounds, 0)
    colours, shapes = (len(COLOURS), len(SHAPES)) if full else (TRAINED_COLOURS, TRAINED_SHAPES)
    every = np.array([(c, s) for c in range(colours) for s in range(shapes)])
    chosen = every[rng.random((count, len(every))).argsort(axis=1)[:, :OBJECTS]]
    wanted = held[chosen[..., 0], chosen[..., 1]] == held_out
    order = np.where(wanted, rng.random(wanted.shape), -1.0)
    named, form, then = order.argmax(axis=1), None, None
    if full:
        second = np.argsort(order, axis=1)[:, -2]
        two = (rng.random(count) < _CHAINED) & wanted[np.arange(count), second]
        then = np.where(two, second, -1)
        form = np.where((two | (rng.random(count) < _PLAINLY))[:, None], 0, other_forms(rng, count))
    episodes = world.stage(rng, background, chosen, named, np.full(count, -1), np.zeros(count, bool), form, then)
    return episodes[np.flatnonzero(wanted.any(axis=1))]


class Meanings:
    """Words by what they mean: `ids` int64 (W,), tokens; `of` int64 (W,), each word's meaning; `share` float32 (K, W),
    a meaning's words in equal shares: an answer that takes any of the synonyms for right.
    """

    def __init__(self, groups: list[tuple[str, ...]], ids: dict[str, int]):
        # Two-token verbs are asked at their last token, which only they have.
        words = [(ids[word.split()[-1]], kind) for kind, group in enumerate(groups) for word in group]
        self.ids, self.of = torch.tensor(words).T
        share = torch.nn.functional.one_hot(self.of, len(groups)).T.float()
        self.share = share / share.sum(1, keepdim=True)
        self.synonym = torch.tensor([place > 0 or len(group) == 1 for group in groups for place in range(len(group))])

    def told(self, logits: Tensor, synonyms: bool = False) -> Tensor:
        """The meaning of the most likely word, or of the most likely synonym: (..., W) -> int64 (...)."""
        return self.of[(logits.masked_fill(~self.synonym, -torch.inf) if synonyms else logits).argmax(-1)]


class Lessons:
    """Scenes as tensors: images, prompts and the answers to all objectives, drawn once."""

    def __init__(self, world: World, episodes: Episodes, partial: float = 0.0, seed: int = 0, language: str = "plain"):
        """`partial`: share of expressions that give one attribute only ("the red thing", "the any cube") and
        may fit several objects; an instruction that names two objects is never partial."""
        count, rows = len(episodes), np.arange(len(episodes))
        rng = np.random.default_rng(seed)
        ids = {word: index for index, word in enumerate(tokenizer.vocabulary(language))}
        self.images = torch.from_numpy(episodes.render(episodes.start)).permute(0, 3, 1, 2).contiguous()
        self._words(ids, language)
        # 0: both attributes, 1: colour only, 2: shape only. A partial expression may be about any object in
        # view.
        kind = np.where(rng.random(count) < partial, rng.integers(1, 3, size=count), 0)
        kind = np.where(episodes.then >= 0, 0, kind)
        about = np.where(kind > 0, rng.integers(OBJECTS, size=count), episodes.named)
        self._prompts(episodes, about, kind, _bins(world, episodes), ids, language)
        fits = episodes.pairs == episodes.pairs[rows, about][:, None]  # (B, O, 2): same colour, same shape
        fits = (fits[..., 0] | (kind == 2)[:, None]) & (fits[..., 1] | (kind == 1)[:, None])
        answer = np.zeros((count, self.asked.shape[1], CELLS**2), np.float32)
        cells = _cells(episodes.places)
        answer[rows[:, None], 0, cells] = fits / fits.sum(axis=1, keepdims=True)
        two = np.flatnonzero(episodes.then >= 0)
        answer[two, -1, cells[two, episodes.then[two]]] = 1.0
        self.answer = torch.from_numpy(answer)  # (B, A, N), a distribution each; zeros where nothing is asked
        # Naming: the last class of colours and of shapes is "table".
        colour, shape = (np.full((count, CELLS**2), len(known.share) - 1) for known in (self.colours, self.shapes))
        self.cells = torch.from_numpy(cells)  # (B, O), of the objects
        colour[rows[:, None], cells] = episodes.pairs[..., 0]
        shape[rows[:, None], cells] = episodes.pairs[..., 1]
        self.colour, self.shape = torch.from_numpy(colour), torch.from_numpy(shape)

    def __len__(self) -> int:
        return len(self.images)

    def _words(self, ids: dict[str, int], language: str) -> None:
        full = language == "full"
        colours, shapes = list(COLOURS)[: None if full else TRAINED_COLOURS], SHAPES[: None if full else TRAINED_SHAPES]
        group = ways if full else lambda word: (word,)
        self.location = torch.tensor([ids[name] for name in tokenizer.LOCATIONS])
        self.colours = Meanings([*map(group, colours), ("table",)], ids)
        self.shapes = Meanings([*map(group, shapes), ("table",)], ids)
        self.lexicon = Meanings([group(word) for word in (*VERBS, *colours, *shapes)], ids)

    def _prompts(self, episodes: Episodes, about, kind, bins, ids: dict[str, int], language: str) -> None:
        count = len(episodes)
        self.tokens = torch.zeros(count, PROMPT_LENGTHS[language], dtype=torch.long)
        self.asked = torch.zeros(count, 1 if language == "plain" else 2, dtype=torch.long)  # token of each answer
        for row in range(count):
            colour, shape = episodes.pairs[row, about[row]]
            colour = "any" if kind[row] == 2 else list(COLOURS)[colour]
            shape = "thing" if kind[row] == 1 else SHAPES[shape]
            said = say(episodes.verbs[episodes.verb[row]], colour, shape, episodes.form[row]).split()
            self.asked[row] = FIRST_WORD + len(said) - 1
            if episodes.then[row] >= 0:
                said += f"and the {pair_name(episodes.pairs[row, episodes.then[row]])}".split()
                self.asked[row, 1] = FIRST_WORD + len(said) - 1
            words = ["<bos>", "Task", ":", *said, ",", "State", ":", *map(str, bins[row]), ";", "Action", ":"]
            self.tokens[row, : len(words)] = torch.tensor([ids[word] for word in words])
        known = torch.full((max(ids.values()) + 1,), -1)
        known[self.lexicon.ids] = self.lexicon.of
        self.meaning = torch.where(spoken(self.tokens), known[self.tokens], -1)  # (B, L), -1: none to tell

    def prompts(self, rows: Tensor, short: bool = False) -> Tensor:
        """Tokens of some prompts; `short` ends them with the instruction: int64 (rows, L)."""
        if not short:
            return self.tokens[rows]
        length = self.tokens.shape[1] - (PROMPT_LENGTH - LAST_WORD - 1)
        tokens = self.tokens[rows, :length]
        return tokens * (torch.arange(length) <= self.asked[rows].max(dim=1, keepdim=True).values)


def spoken(tokens: Tensor) -> Tensor:
    """Which tokens are the instruction's, from its first word up to the comma or the padding: bool (B, L)."""
    ended = ((tokens == _COMMA) | (tokens == 0)).cumsum(1) > 0
    return ~ended & (torch.arange(tokens.shape[1]) >= FIRST_WORD)


def _bins(world: World, episodes: Episodes) -> np.ndarray:
    """The start as the host's prompt has it: int (B, 3)."""
    stats = reference_stats(world)["observation.state"]
    low, high = stats["q01"], np.maximum(stats["q99"], stats["q01"] + 1e-8)
    scaled = 2 * (episodes.start - low) / (high - low) - 1
    return np.digitize(scaled, np.linspace(-1, 1, 257)[:-1]) - 1


def _cells(places: np.ndarray) -> np.ndarray:
    column, row = (np.clip((places[..., axis] * CELLS).astype(int), 0, CELLS - 1) for axis in (0, 1))
    return row * CELLS + column
