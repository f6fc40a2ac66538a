"""What a grounded VLM is asked, as pure functions: naming and pointing, answered through its own vocabulary.

    naming    the image token of a cell predicts the colour and the shape word of what is there ("table" if
              nothing) and its own `<locNN>` token
    pointing  the last token of the instruction predicts the `<locNN>` token of the object it names

They know neither a host's model nor its prompt, only states of the residual stream and word embeddings.

Shape legend: `B` batch, `N` = 9 cells = image tokens, `D` width, `V` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from apt_plugin.tabletop.drawing import COLOURS, SHAPES
from apt_plugin.tabletop.tokenizer import LOCATIONS


@dataclass(frozen=True)
class AnswerIds:
    """Token ids of the possible answers; the last colour and the last shape is "table"."""

    colour: Tensor  # int64 (colours + 1,)
    shape: Tensor  # int64 (shapes + 1,)
    location: Tensor  # int64 (N,)

    @classmethod
    def of(cls, vocabulary: Sequence[str]) -> "AnswerIds":
        """
        Raises:
            KeyError: the vocabulary lacks an answer.
        """
        ids = {word: index for index, word in enumerate(vocabulary)}
        table = [ids["table"]]
        return cls(
            torch.tensor([ids[word] for word in COLOURS] + table),
            torch.tensor([ids[word] for word in SHAPES] + table),
            torch.tensor([ids[word] for word in LOCATIONS]),
        )


@dataclass(frozen=True)
class Answers:
    """Logits from one layer."""

    colour: Tensor  # (B, N, colours + 1)
    shape: Tensor  # (B, N, shapes + 1)
    own: Tensor  # (B, N, N), each cell's own place
    pointed: Tensor  # (B, N)


def answers(cells: Tensor, last: Tensor, embeddings: Tensor, ids: AnswerIds) -> Answers:
    """
    Args:
        cells: normalised states of the image tokens (B, N, D); last: of the last instruction token (B, D).
        embeddings: (V, D).
    """
    place = embeddings[ids.location].T
    return Answers(cells @ embeddings[ids.colour].T, cells @ embeddings[ids.shape].T, cells @ place, last @ place)


def naming_loss(given: Answers, colour: Tensor, shape: Tensor) -> Tensor:
    """Mean cross-entropies, summed over the three questions. `colour`, `shape`: int64 (B, N), the last is "table"."""
    count, cells = colour.shape
    own = torch.arange(cells, device=colour.device).repeat(count)
    return (
        F.cross_entropy(given.colour.flatten(0, 1), colour.flatten())
        + F.cross_entropy(given.shape.flatten(0, 1), shape.flatten())
        + F.cross_entropy(given.own.flatten(0, 1), own)
    )


def pointing_loss(given: Answers, answer: Tensor) -> Tensor:
    """Mean cross-entropy against a distribution over cells, (B, N)."""
    return F.cross_entropy(given.pointed, answer)


def pointing_hits(given: Answers, answer: Tensor) -> Tensor:
    """Whether the likeliest cell is one of the right ones: bool (B,)."""
    return answer.gather(1, given.pointed.argmax(-1)[:, None])[:, 0] > 0


def naming_hits(given: Answers, colour: Tensor, shape: Tensor) -> Tensor:
    """Whether colour and shape are both right, for each object in view: bool (objects,)."""
    right = (given.colour.argmax(-1) == colour) & (given.shape.argmax(-1) == shape)
    return right[colour < given.colour.shape[-1] - 1]
