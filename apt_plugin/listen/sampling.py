"""Which frames are looked at: every task gets its turn, however rare it is in the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spread_over_tasks(task: Sequence[str], length: np.ndarray | None, count: int, seed: int) -> list[tuple[int, int]]:
    """`count` (episode, step) pairs, tasks in turn, episodes of a task in random order, each step at random.

    Args:
        task: instruction per episode; length: steps per episode, None for first steps only.

    Episodes come again, at other steps, only after every episode had its turn.
    """
    rng = np.random.default_rng([seed, 3])
    queues = [list(rng.permutation([e for e, text in enumerate(task) if text == name])) for name in sorted(set(task))]
    order: list[int] = []
    while any(queues):
        order += [int(queue.pop()) for queue in queues if queue]
    turns = -(-count // max(len(order), 1))
    picked: list[tuple[int, int]] = []
    for _ in range(turns if length is not None else 1):
        for episode in order:
            step = 0 if length is None else int(rng.integers(max(int(length[episode]), 1)))
            picked.append((episode, step))
    seen = dict.fromkeys(picked)  # an episode of one step cannot give two frames
    return list(seen)[:count]
