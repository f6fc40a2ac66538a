"""Self-labelling: the policy says which instruction an unlabelled demonstration most likely carried out.

    N frames   E episodes   I instructions asked   K noise draws

By Bayes, p(instruction | scene, action) grows with p(action | scene, instruction) when instructions are equally likely
beforehand, and a flow-matching error bounds -log of that: the instruction with the least error, summed over the frames
of an episode, is the label. Asked are the instructions of the training data that name an object in view: a pair that no
demonstration names is not named here either, and what the episode was really about is never looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apt_plugin.tabletop.world import OBJECTS, Episodes

ASKED = "asked"  # wordings "asked0", "asked1", ... of a pool


def asked(episodes: Episodes, known: Sequence[str]) -> dict[str, list[str]]:
    """Wording -> a text per episode: every verb about every object in view, "" where no demonstration says so. Episodes
    of two legs, which their length gives away, are asked about every two objects in turn. All have one number of legs.
    """
    out: dict[str, list[str]] = {}
    for verb in range(len(episodes.verbs)):
        for named, then in _orders(episodes.legs):
            verbs, first, second = (np.full(len(episodes), value) for value in (verb, named, then))
            texts = dataclasses.replace(episodes, verb=verbs, named=first, then=second).instructions()
            out[f"{ASKED}{len(out)}"] = [text if text in set(known) else "" for text in texts]
    return out


def _orders(legs: int) -> list[tuple[int, int]]:
    """Slots that an instruction may name: (first, then), -1 for no second."""
    if legs == 1:
        return [(slot, -1) for slot in range(OBJECTS)]
    return [(first, then) for first in range(OBJECTS) for then in range(OBJECTS) if first != then]


def truth(episodes: Episodes) -> np.ndarray:
    """Which of `asked` each episode was really about: int [E]. For the report alone."""
    orders = _orders(episodes.legs)
    about = [orders.index((int(a), int(b))) for a, b in zip(episodes.named, episodes.then, strict=True)]
    return episodes.verb * len(orders) + np.array(about)


@torch.no_grad()
def label(trainer: Any, draws: int = 8, block: int = 128) -> tuple[Tensor, float]:
    """Labels of a trainer's unlabelled frames.

    Returns:
        (number of a wording per frame int64 [N], 0 (its own) for labelled ones; share of unlabelled episodes whose
        label is the instruction that the demonstrator had).
    """
    pool, body = trainer.pool, trainer.body
    rows = torch.arange(pool.labelled, len(pool))
    numbers = [k for k, name in enumerate(pool.wordings) if name.startswith(ASKED)]
    body.policy.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trainer.seed)
        noise, time = body.draw(block, draws)  # the same for every frame and instruction
    cost = torch.full((len(rows), len(numbers)), torch.inf)
    for column, number in enumerate(numbers):
        said = pool.said[number][pool.labelled :]
        for part in torch.arange(len(rows))[said].split(block):
            some, n = rows[part], len(part)
            if not n:  # a pair of verb and object that no demonstration names
                continue
            prefix = trainer.prefix(some, torch.full((n,), number))
            cost[part, column] = trainer.errors(prefix, some, noise[:n], time[:n])
    body.policy.train()
    episode = pool.episode[rows] - pool.episode[rows].min()
    whole = torch.zeros(int(episode.max()) + 1, len(numbers)).index_add_(0, episode, cost)
    found = torch.tensor(numbers)[whole.argmin(1)[episode]]
    right = float((found == torch.tensor(numbers)[pool.truth[rows]]).float().mean())
    return torch.cat([torch.zeros(pool.labelled, dtype=torch.long), found]), right
