"""Attention on the instruction in lerobot's policies, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NONE = "No layer attends to the instruction: gates that are closed, or the host's own pathway beside them."


def attention_of(listener: Any, rows: Sequence[int]) -> dict[str, float] | str:
    """Layer -> share of the action tokens' attention on the instruction, mean over the frames."""
    found = [_of_one(listener, row) for row in rows]
    shares = [each for each in found if each]
    return {layer: float(np.mean([each[layer] for each in shares])) for layer in shares[0]} if shares else NONE


def _of_one(listener: Any, row: int) -> dict[str, float]:
    """One frame by itself: no padding, so that a prompt's tokens stand where they stand."""
    instructed, blank = (listener.prompts([row], [text]) for text in (listener.frames.task[row], ""))
    context: Any = listener.context([row], [listener.frames.task[row]])
    chunk = listener.frames.actions.shape[1:]
    watched = listener.listening.watched(listener.policy, context, instructed, blank, int(chunk[0]))
    noise = np.random.default_rng(row).standard_normal((1, 1, *chunk))
    with watched as shares:
        context.velocity(noise.astype(np.float32), np.full((1, 1), 0.5, np.float32))
    return dict(shares)
