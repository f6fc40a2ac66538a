"""Grounding's objectives as pure functions of states and word embeddings: they know no host's model and no prompt.

`objectives` asks the tiny π0.5 the same questions; see there for what they are.

Shape legend: `B` batch, `N` = 9 cells = image tokens, `L` prompt tokens, `D` width, `V` vocabulary, `A` objects pointed
at, `W` words of a kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from apt_plugin.tabletop.lessons import Lessons, Meanings
from apt_plugin.tabletop.objectives import Grounding


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
    cell; "meaning" bool (n,), of all words that have one.

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
    named = (lessons.colours.told(last.colour) == colour) & (lessons.shapes.told(last.shape) == shape)
    at = answer.gather(2, last.pointed.argmax(-1)[..., None])[..., 0] > 0
    return total, {
        "pointing": (at | ~asks).all(1),
        "naming": named.gather(1, lessons.cells[rows]),
        "meaning": lessons.lexicon.told(last.meaning[told]) == meaning[told],
    }
