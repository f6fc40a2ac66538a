"""Has the VLM lost its language? How far it still tells these instructions apart as its base does.

    B pairs   C features

On one frame, the difference between what the action expert reads under two instructions is compared with the same
difference under the base's VLM. Retention is the mean cosine between the two: 1 is the base, 0 has nothing of it left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.listen.causes.cause import Cause, Question

if TYPE_CHECKING:
    from apt_plugin.listen.evidence import Base, Evidence

QUESTION = Question("retention", "Has the VLM kept its language?", "The VLM has lost its language")
FRAMES, OTHERS = 8, 3
# Below this more than half of the direction is new. Not calibrated on large models: compare runs of your own by it.
KEPT = 0.5


def look(task: Sequence[str], tasks: Sequence[str], evidence: Evidence, base: Base | None) -> Cause:
    """The cause; `task` of every frame, `tasks` of the data set."""
    if base is None:
        return QUESTION.unknown("No base is named.", "Write --base CHECKPOINT, the one that training started from.")
    try:
        value = retention(task, tasks, evidence, base)
    except AptError as error:
        return QUESTION.unknown(str(error))
    if value is None:
        return QUESTION.unknown("This policy does not show what its action expert reads.")
    said = f"Retention is {value:.2f} (1: as the base, 0: nothing left)."
    if value >= KEPT:
        return replace(QUESTION.ruled_out(said), value=value)
    advice = "Train the VLM more slowly (--apt.vlm_lr_scale), or freeze it for longer."
    return replace(QUESTION.found([said], advice), value=value)


def retention(task: Sequence[str], tasks: Sequence[str], evidence: Evidence, base: Base) -> float | None:
    """Mean cosine over up to FRAMES frames and OTHERS other instructions each; None where nothing is shown.

    Raises:
        AptError: fewer than two instructions, or none that the base's VLM tells apart.
    """
    frames, texts = [], []
    rows = [row for row, text in enumerate(task) if text.strip()][:FRAMES]
    for row in rows:
        others = [text for text in tasks if text.strip() and text != task[row]][:OTHERS]
        frames += [row] * (1 + len(others))
        texts += [task[row], *others]
    if len(frames) == len(rows):
        raise AptError("Two instructions or more are needed.")
    now = evidence.read(frames, texts)
    if now is None:
        return None
    with base.inside():
        then = evidence.read(frames, texts)
    assert then is not None
    first = {row: frames.index(row) for row in rows}
    own = [first[frame] for frame in frames]
    value = kept(now - now[own], then - then[own])
    if value is None:
        raise AptError("The base's VLM does not tell these instructions apart.")
    return value


def kept(now: np.ndarray, then: np.ndarray) -> float | None:
    """Mean cosine of what instructions move now with what they moved then, both [N, C]. Rows in which nothing moved
    then are left out; None where none is left."""
    cosines = [c for here, there in zip(now, then, strict=True) if (c := _cosine(here, there)) is not None]
    return float(np.mean(cosines)) if cosines else None


def _cosine(here: np.ndarray, there: np.ndarray) -> float | None:
    sizes = float(np.linalg.norm(there)), float(np.linalg.norm(here))
    if sizes[0] == 0:
        return None
    return 0.0 if sizes[1] == 0 else float(here @ there) / (sizes[0] * sizes[1])
