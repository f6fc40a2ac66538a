"""The objectives of grounding, naming, pointing and meaning, as pure functions of states and word embeddings, and the
loop that follows them: they know no host's model and no prompt. What they are stands in `grounding`.

Shape legend: `B` batch, `N` = 9 cells = image tokens, `L` prompt tokens, `D` width, `V` vocabulary, `O` objects in
view, `A` objects pointed at, `W` words of a kind.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from apt_plugin.tabletop.episodes import Episodes
from apt_plugin.tabletop.lessons import PROMPT_LENGTHS, Lessons, Meanings
from apt_plugin.tabletop.splits import TRAINED_COLOURS, TRAINED_SHAPES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grounding:
    """How to train. `naming`, `pointing` and `meaning` weigh the objectives; 0 switches one off. `language` is "plain"
    or "full" (see `words`); the plain one has one word for each thing, so nothing to learn from `meaning`.

    `partial` is the share of one-attribute expressions; `short` the share of steps, the first ones, that leave out
    the prompt's state part, which says nothing about the scene and costs a third of the tokens.
    """

    steps: int = 1700
    batch: int = 32
    lr: float = 3e-3
    naming: float = 1.0
    pointing: float = 1.0
    meaning: float = 1.0
    language: str = "plain"
    partial: float = 0.5
    first_layer: int = 2
    short: float = 0.7
    scenes: int = 20000
    probe: int = 1024
    seed: int = 0

    def __post_init__(self):
        if self.language not in PROMPT_LENGTHS:
            raise ValueError(f"language must be one of {', '.join(PROMPT_LENGTHS)}, got {self.language!r}.")


@dataclass(frozen=True)
class Answers:
    """Logits from one layer."""

    colour: Tensor  # (B, N, W)
    shape: Tensor  # (B, N, W)
    own: Tensor  # (B, N, N), each cell's own place
    pointed: Tensor  # (B, A, N)
    meaning: Tensor  # (B, L, W)


def answers(
    cells: Tensor, points: Tensor, prompt: Tensor, embeddings: Tensor, lessons: Lessons, ids: Tensor
) -> Answers:
    """
    Args:
        cells: normalised states of the image tokens (B, N, D); points: of the tokens asked to point (B, A, D);
            prompt: of all tokens whose meaning may be asked (B, L, D).
        embeddings: (V, D). ids: int64, from the lessons' token ids to rows of `embeddings`.
    """

    def of(tokens: Tensor) -> Tensor:
        return embeddings[ids[tokens]].T

    place = of(lessons.location)
    return Answers(
        cells @ of(lessons.colours.ids),
        cells @ of(lessons.shapes.ids),
        cells @ place,
        points @ place,
        prompt @ of(lessons.lexicon.ids),
    )


def any_of(logits: Tensor, known: Meanings, meaning: Tensor) -> Tensor:
    """Cross-entropy where all words of a meaning are right: logits (n, W), meaning int64 (n,)."""
    return F.cross_entropy(logits, known.share[meaning])


def loss_of(
    found: Sequence[Answers], lessons: Lessons, rows: Tensor, meaning: Tensor, how: Grounding, first: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """All objectives, each averaged over the layers that are asked (pointing: from `first` on), and what the last
    layer got right: "pointing" bool (B,), every object; "naming" bool (B, O), colour and shape of an object by its
    cell, "by synonyms" the same with no other words allowed; "meaning" bool (n,), of all words that have one.

    `meaning` int64 (B, L), -1 where a token has none.
    """
    colour, shape, answer = lessons.colour[rows], lessons.shape[rows], lessons.answer[rows]
    told, asks = meaning >= 0, answer.sum(-1) > 0
    own = torch.arange(colour.shape[1]).repeat(len(rows))
    total = torch.zeros(())
    for index, say in enumerate(found):
        naming = any_of(say.colour.flatten(0, 1), lessons.colours, colour.flatten())
        naming = naming + any_of(say.shape.flatten(0, 1), lessons.shapes, shape.flatten())
        total = total + how.naming * (naming + F.cross_entropy(say.own.flatten(0, 1), own)) / len(found)
        if how.language == "full":
            total = total + how.meaning * any_of(say.meaning[told], lessons.lexicon, meaning[told]) / len(found)
        if how.pointing and index >= first:
            pointing = F.cross_entropy(say.pointed[asks], answer[asks])
            total = total + how.pointing * pointing / (len(found) - first)
    last = found[-1]
    kinds = ((last.colour, lessons.colours, colour), (last.shape, lessons.shapes, shape))
    named, synonyms = (
        torch.stack([known.told(logits, only) == true for logits, known, true in kinds]).all(0)
        for only in (False, True)
    )
    at = answer.gather(2, last.pointed.argmax(-1)[..., None])[..., 0] > 0
    return total, {
        "pointing": (at | ~asks).all(1),
        "naming": named.gather(1, lessons.cells[rows]),
        "by synonyms": synonyms.gather(1, lessons.cells[rows]),
        "meaning": lessons.lexicon.told(last.meaning[told]) == meaning[told],
    }


def descend(
    parameters: list[torch.nn.Parameter],
    step: Callable[[int, Tensor], tuple[Tensor, dict[str, Tensor]]],
    count: int,
    how: Grounding,
    progress: bool,
) -> float:
    """Train `parameters` in place for `how.steps` steps; `step(index, rows)` is loss and hits on rows below `count`.

    Returns:
        The last loss.
    """
    generator = torch.Generator().manual_seed(how.seed)
    optimiser = torch.optim.AdamW(parameters, lr=how.lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.lr, how.steps, pct_start=0.1)
    loss = torch.zeros(())
    for index in track(range(how.steps), description="Grounding the VLM", disable=not progress):
        loss, hits = step(index, torch.randint(count, (how.batch,), generator=generator))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if index % 250 == 0 or index == how.steps - 1:
            right = [float(hits[kind].float().mean()) for kind in ("pointing", "naming")]
            logger.info("step %d loss %.3f pointing %.2f naming %.2f", index, float(loss.detach()), *right)
    return float(loss.detach())


def new_objects(drawn: Episodes) -> np.ndarray:
    """Which objects in view no demonstration shows: bool (B, O)."""
    return np.any(np.greater_equal(drawn.pairs, (TRAINED_COLOURS, TRAINED_SHAPES)), axis=-1)


def kinds_of(drawn: Episodes, language: str) -> dict[str, np.ndarray]:
    """Rows of scenes by what their instruction asks for; "" is all of them, the rest needs the full language."""
    rows: dict[str, np.ndarray] = {"": np.arange(len(drawn))}
    if language == "full":
        named_new = new_objects(drawn)[np.arange(len(drawn)), drawn.named]
        rows[", unseen object"] = np.flatnonzero((drawn.then < 0) & named_new)
        rows[", other words"] = np.flatnonzero(drawn.form.any(1))
        rows[", two objects"] = np.flatnonzero(drawn.then >= 0)
    return rows
