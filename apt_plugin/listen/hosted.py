"""A policy on frames of one data set, as every host's listener is built: which frames, asked in which blocks.

    F frames   T action tokens   A action dimensions   C features

A host says how a frame is read, what the model gets of it, and what its image tower says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.listen.evidence import Evidence
from apt_plugin.listen.labels import spread
from apt_plugin.listen.sampling import spread_over_tasks
from apt_plugin.listen.subject import Frames, Listener

PAIRS = 8  # (frame, instruction) pairs that are read at once
Places = Sequence[tuple[int, int]]  # (episode, step)


@dataclass(frozen=True)
class Episodes:
    """The episodes of a data set, by number.

    `name`: of the data set; `text`: each one's instruction, "" where it has none; `length`: its frames; `room`: from
    how many of these a chunk may start (`length` where it is not given).
    """

    name: str
    text: Sequence[str]
    length: Sequence[int]
    room: Sequence[int] | None = None

    @property
    def tasks(self) -> list[str]:
        """Every instruction once."""
        return sorted({text for text in self.text if text.strip()})

    def spread(
        self, count: int, seed: int, first: bool = False, among: Collection[int] | None = None
    ) -> list[tuple[int, int]]:
        """Frames of labelled episodes, every instruction in turn; `first`: their first frames only; `among`: of these.

        Raises:
            AptError: no episode has an instruction.
        """
        labelled = [episode for episode, text in enumerate(self.text) if text.strip()]
        labelled = [episode for episode in labelled if among is None or episode in among]
        if not labelled:
            raise AptError(f"{self.name} has no instruction in any episode: listen needs labelled data.")
        room = None if first else np.array([(self.room or self.length)[episode] for episode in labelled])
        picked = spread_over_tasks([self.text[episode] for episode in labelled], room, count, seed)
        return [(labelled[k], step) for k, step in picked]


@dataclass(frozen=True)
class DataSet:
    """A whole data set under one policy, asked in blocks of episodes (`labels.Episodes`)."""

    data: Any  # the host's
    episodes: Episodes
    ask: Callable[[Places], Listener]  # on these frames

    @property
    def task(self) -> Sequence[str]:
        return self.episodes.text

    def listener(self, episodes: Sequence[int], frames: int) -> Listener:
        return self.ask(spread(episodes, self.episodes.room or self.episodes.length, frames))


@dataclass(frozen=True)
class Chunks:
    """Demonstrated chunks as the model is trained on them: `actions` float32 [F, T, A], `valid` bool [F, T]; `width`:
    how many of the A dimensions are the robot's."""

    actions: np.ndarray
    valid: np.ndarray
    width: int


class HostListener(Listener):
    """One policy with frames of one data set; a frame is read once, words are put in per question."""

    block: ClassVar[int] = 16  # frames that go through the policy's processors and image tower at once
    most_first: ClassVar[int] = 512  # episodes at most whose first frames say whether the data need language

    def __init__(self, episodes: Episodes, count: int = 0, seed: int = 0, chosen: Places | None = None):
        """
        Args:
            count: frames, spread over the instructions; or `chosen`: these, of episodes without instruction too.

        Raises:
            AptError: see `frames_wanted` and `Episodes.spread`.
        """
        self.episodes, self._seed, self.tasks = episodes, seed, episodes.tasks
        places = episodes.spread(count, seed) if chosen is None else chosen
        self.items = [self.item(episode, step) for episode, step in places]
        numbers = [episode for episode, _ in places]
        texts = tuple(episodes.text[episode] for episode in numbers)
        last = np.maximum(np.array([episodes.length[episode] for episode in numbers]) - 1, 1)
        parts = [
            self.chunks(self.items[start : start + self.block], texts[start : start + self.block])
            for start in range(0, len(places), self.block)
        ]
        self.frames = Frames(
            episode=np.array(numbers),
            position=np.array([step for _, step in places]) / last,
            task=texts,
            actions=np.concatenate([part.actions for part in parts]),
            valid=np.concatenate([part.valid for part in parts]),
            pictures=np.stack([self.picture(item) for item in self.items]),
            width=parts[0].width,
        )

    # -- what a host says -----------------------------------------------------------------------------------

    def item(self, episode: int, step: int) -> Any:
        """A raw frame."""
        raise NotImplementedError

    def chunks(self, items: Sequence[Any], texts: Sequence[str]) -> Chunks:
        raise NotImplementedError

    def picture(self, item: Any) -> np.ndarray:
        """uint8 [H, W, 3], the first camera."""
        raise NotImplementedError

    def pooled(self, items: Sequence[Any]) -> np.ndarray:
        """What the image tower says, pooled over tokens: float32 [F, C]. No instruction takes part."""
        raise NotImplementedError

    # -- what `listen` asks ---------------------------------------------------------------------------------

    def first_frames(self) -> tuple[np.ndarray, list[str]]:
        first = self.episodes.spread(self.most_first, self._seed, first=True)
        found = []
        for start in range(0, len(first), self.block):  # a block at a time: raw frames of 512 episodes are large
            found.append(self.pooled([self.item(episode, 0) for episode, _ in first[start : start + self.block]]))
        return np.concatenate(found), [self.episodes.text[episode] for episode, _ in first]

    def features(self, frames: Sequence[int]) -> np.ndarray:
        items = [self.items[frame] for frame in frames]
        blocks = range(0, len(items), self.block)
        return np.concatenate([self.pooled(items[start : start + self.block]) for start in blocks])


class HostEvidence(Evidence):
    """Facts behind one `HostListener`."""

    def __init__(self, listener: Any):
        self.listener = listener

    def labels(self) -> Sequence[str]:
        return self.listener.episodes.text

    def read(self, frames: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        blocks = [slice(start, start + PAIRS) for start in range(0, len(frames), PAIRS)]
        return np.concatenate([self.listener.context(frames[part], texts[part]).read() for part in blocks])


def frames_wanted(frames: int) -> int:
    """
    Raises:
        AptError: none asked for. Said before a policy is loaded.
    """
    if frames < 1:
        raise AptError(f"--frames is {frames}; write 1 or more (64 is the default).")
    return frames
