"""Hindsight goals: a wordless demonstration is told where its own chunk ended.

N frames   T action tokens
"""

from __future__ import annotations

import dataclasses

import numpy as np

from apt_compare.training.pools import Raw
from apt_plugin.tabletop import arm as dynamics
from apt_plugin.tabletop.tokenizer import LOCATIONS
from apt_plugin.tabletop.words import VERBS
from apt_plugin.tabletop.world import CELLS

# An open and a closing verb: what the jaws do at the end is a part of the goal.
_OPEN, _CLOSED = (next(verb for verb, closes in VERBS.items() if closes == wanted) for wanted in (False, True))


def ends(frames: Raw) -> np.ndarray:
    """The state in which each chunk ends: [N, 3]. A data set of so few frames lacks it (its last frame is the one
    before the last action), a robot's at ten frames a second has it to within one frame."""
    state = frames.states
    for action in np.moveaxis(frames.actions, 1, 0):
        state = dynamics.step(state, action)
    return state


def told(frames: Raw, goal: str, untold: bool) -> Raw:
    """Frames of a first stage with their goals under the wording "true", and where some are untold without under
    "blank".

    Args:
        goal: "state" for a policy whose processors write it, "location" for words in the instruction's place.
    """
    state, none = ends(frames), [""] * len(frames)
    texts = {"true": words(state) if goal == "location" else none} | ({"blank": none} if untold else {})
    return dataclasses.replace(frames, texts=texts, goals=state if goal == "state" else None)


def words(state: np.ndarray) -> list[str]:
    """For example "grasp <loc05>": N texts."""
    cells = np.clip((state[:, :2] * CELLS).astype(int), 0, CELLS - 1) @ [1, CELLS]
    verbs = np.where(state[:, 2] <= 0.5, _CLOSED, _OPEN)
    return [f"{verb} {LOCATIONS[cell]}" for verb, cell in zip(verbs, cells, strict=True)]
