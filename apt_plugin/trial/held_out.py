"""Which episodes nothing is trained on, so that there is something to ask about.

Two kinds: episodes of familiar pairs of scene and instruction; and, where somebody says which episodes share a scene,
pairs that training never sees although it sees both halves of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apt_plugin import files
from apt_plugin.errors import AptError

FEWEST = 2  # held-out episodes: an interval over episodes takes two


@dataclass(frozen=True)
class Split:
    """Numbers of episodes; `pairs`: those of unseen pairs of scene and instruction."""

    train: list[int]
    held_out: list[int]
    pairs: list[int]

    @property
    def asked(self) -> list[int]:
        return sorted([*self.held_out, *self.pairs])


def split(labels: Mapping[int, str], share: float, scenes: Mapping[int, str] | None = None, seed: int = 0) -> Split:
    """Hold out a share of each instruction's episodes, and a share of the pairs. Episodes without words are trained on.

    Args:
        labels: episode -> instruction, "" where it has none. share: in (0, 1). scenes: episode -> scene, all of them.

    Raises:
        AptError: no two episodes can be spared.
    """
    rng = np.random.default_rng([seed, 11])
    spoken = {episode: text for episode, text in labels.items() if text.strip()}
    pairs = [] if scenes is None else _pairs(spoken, scenes, share, rng)
    left = {episode: text for episode, text in spoken.items() if episode not in set(pairs)}
    held_out: list[int] = []
    for text in sorted(set(left.values())):
        mine = [episode for episode in sorted(left) if left[episode] == text]
        count = min(max(1, round(share * len(mine))), len(mine) - 1)
        held_out += [mine[place] for place in rng.permutation(len(mine))[:count]]
    if len(held_out) + len(pairs) < FEWEST:
        most = max((list(spoken.values()).count(text) for text in set(spoken.values())), default=0)
        raise AptError(
            f"Nothing can be held out: {len(spoken)} episodes have an instruction, and no instruction has more than "
            f"{most}. A trial takes two instructions with two episodes each, at least."
        )
    gone = {*held_out, *pairs}
    return Split([e for e in sorted(labels) if e not in gone], sorted(held_out), sorted(pairs))


def _pairs(spoken: Mapping[int, str], scenes: Mapping[int, str], share: float, rng: np.random.Generator) -> list[int]:
    """Episodes of pairs, as long as each half of each stays in training with another partner."""
    kept = {(scenes[episode], text) for episode, text in spoken.items()}
    wanted, gone = round(share * len(kept)), set()
    order = sorted(kept)
    for pair in (order[place] for place in rng.permutation(len(order))):
        rest = kept - {pair}
        if len(gone) < wanted and all(pair[side] in {other[side] for other in rest} for side in (0, 1)):
            kept, gone = rest, gone | {pair}
    return [episode for episode, text in spoken.items() if (scenes[episode], text) in gone]


def read_scenes(path: Path, episodes: Iterable[int]) -> dict[int, str]:
    """Episode -> scene of a JSON file: {"0": "kitchen", ...} or a list in the order of the episodes.

    Raises:
        AptError: another form, or episodes that it does not name.
    """
    if not path.is_file():
        raise AptError(f"--trial.scenes {path}: there is no such file.")
    value = files.read_json(path)
    named = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(named, dict) or not all(str(key).isdecimal() for key in named):
        raise AptError(f'--trial.scenes {path} holds no scene of each episode; write {{"0": "kitchen", "1": "desk"}}.')
    found = {int(key): str(scene) for key, scene in named.items()}
    if missing := [episode for episode in episodes if episode not in found]:
        raise AptError(f"--trial.scenes {path} names no scene of {len(missing)} episodes, the first is {missing[0]}.")
    return found
