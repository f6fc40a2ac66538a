"""Which demonstrations a data set has: which object each goes for, in which scene and layout, and whether it is told.

A scene of `libero_object` holds six objects; LIBERO asks there for one of them, always the same: its *usual* one.
Demonstration `k` of a scene follows from the seed, the scene and `k` alone, so a set can grow and keep what it has.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apt_compare.spec import digest
from apt_plugin.errors import AptError

SUITE = "libero_object"
KEYS = ("observation.images.image", "observation.images.image2")  # lerobot's names of LIBERO's cameras
#: What counts as -1 and 1 for a policy that normalises by quantiles: the room that the arm works in, and LIBERO's own
#: limits. From the data themselves a turn that hardly moves would be blown up, and each set would have another scale.
RANGES = {
    "observation.state": (
        (-0.3, 0.3), (-0.35, 0.35), (0.0, 0.45), (2.9, 3.4), (-0.2, 0.2), (-0.3, 0.3), (0.0, 0.04), (-0.04, 0.0)
    ),
    "action": ((-1.0, 1.0),) * 7,
}  # fmt: skip
TESTS = 10  # initial states, the first ones, which evaluators begin with: no demonstration begins there
STATES = 50  # that LIBERO ships for each task
WAIT = 3  # decisions without a motion before the first one, until things have settled; in tests as many
ROUND = 6  # demonstrations of a scene at a time, so that a part of a set is a smaller set


@dataclass(frozen=True)
class Data:
    """A data set.

    Args:
        per_object: demonstrations in the scene of each of the ten objects.
        usual_share: of them, that go for the scene's usual object; the others go for any other in view.
        layouts: initial states that they begin with; 1 fixes the layout of each scene, 0 takes all.
        play: any object in view as often, and no words.
        cameras: 1 is the scene's, 2 the wrist's, too.
        pixels: side of an image.
        hz: decisions a second. LIBERO's own are 20; at 5 an action lasts four times as long, an episode has 40 frames.
    """

    per_object: int = 12
    usual_share: float = 0.8
    layouts: int = 0
    play: bool = False
    cameras: int = 1
    pixels: int = 96
    hz: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.usual_share <= 1:
            raise AptError(f"--usual-share is {self.usual_share}; write a share in [0, 1].")
        if self.cameras not in (1, 2):
            raise AptError(f"--cameras is {self.cameras}; write 1, or 2 for the wrist's, too.")
        if not 0 <= self.layouts <= STATES - TESTS:
            raise AptError(f"--layouts is {self.layouts}; write 0 (all) to {STATES - TESTS}.")
        for name in ("per_object", "pixels", "hz"):
            if getattr(self, name) < 1:
                raise AptError(f"--{name.replace('_', '-')} is {getattr(self, name)}; write 1 or more.")

    @property
    def name(self) -> str:
        """Of the folder of its demonstrations; a set with more of them is the same one, grown."""
        told = dataclasses.asdict(self)
        told.pop("per_object")
        return digest(told)


@dataclass(frozen=True)
class Demo:
    """One demonstration: task `wanted` of the suite in the scene of task `scene`."""

    scene: int
    number: int
    wanted: int
    told: bool

    @property
    def key(self) -> str:
        return f"{self.scene:02d}-{self.number:04d}"

    def beginning(self, data: Data, attempt: int) -> tuple[int, np.ndarray]:
        """(initial state, the jitter of the approach in metres [2]) of an attempt."""
        rng = np.random.default_rng([data.seed, self.scene, self.number, attempt])
        free = data.layouts or STATES - TESTS
        return TESTS + int(rng.integers(free)), rng.uniform(-0.015, 0.015, 2)


def demos(data: Data, allowed: Sequence[Sequence[int]]) -> list[Demo]:
    """Every demonstration, in rounds over the scenes.

    Args:
        allowed: for each scene, the tasks whose goal it holds, its own among them.
    """
    out = []
    for first in range(0, data.per_object, ROUND):
        for scene, tasks in enumerate(allowed):
            for number in range(first, min(first + ROUND, data.per_object)):
                out.append(Demo(scene, number, _wanted(data, scene, number, tasks), not data.play))
    return out


def _wanted(data: Data, scene: int, number: int, tasks: Sequence[int]) -> int:
    """Exactly the share of unusual ones, at even distances, each scene beginning elsewhere."""
    order = np.random.default_rng([data.seed, scene]).permutation(sorted(tasks))
    if data.play:
        return int(order[number % len(order)])
    start = np.random.default_rng([data.seed, scene, 1]).random()
    count = [math.floor(k * (1 - data.usual_share) + start + 1e-9) for k in (number, number + 1)]
    others = [int(task) for task in order if task != scene]
    return others[count[0] % len(others)] if count[1] > count[0] and others else scene


def shares(made: Sequence[Demo]) -> dict[str, Any]:
    """How a set turned out: demonstrations, those of usual objects, and how often each task was wanted."""
    wanted: dict[int, int] = {}
    for demo in made:
        wanted[demo.wanted] = wanted.get(demo.wanted, 0) + 1
    usual = sum(demo.wanted == demo.scene for demo in made)
    return {"demonstrations": len(made), "usual": usual, "wanted": dict(sorted(wanted.items()))}
