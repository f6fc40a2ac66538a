"""Which object did the arm go for? A score for policies that do not yet grasp; positions in, a verdict out.

Pure: no simulator. Lengths are metres.

It is judged at one moment of an episode: the first decision at which the fingers begin to close within `REACH` of an
object, on the way down; where there is none, the moment at which they were lowest. The arm went for the object that was
nearest to them then, or for nothing where that one was farther away than `REACH`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

#: From the point between the fingertips to an object's origin. A scripted expert closes 1 to 4 cm from what it takes,
#: and passes 16 cm above it before.
REACH = 0.10
VERDICTS = ("named", "usual", "other", "nothing")


class Approach:
    """One episode, decision by decision."""

    def __init__(self) -> None:
        self.steps = 0
        self.closest: dict[str, float] = {}
        self._closed: tuple[str, float] | None = None
        self._lowest: tuple[str, float] | None = None
        self._height = np.inf
        self._closing = False

    def see(self, fingers: np.ndarray, places: Mapping[str, np.ndarray], closing: bool) -> None:
        """
        Args:
            fingers: [3], the point between the fingertips before the decision. places: [3] of each object then.
            closing: the decision asks the gripper to close.
        """
        away = {name: float(np.linalg.norm(np.asarray(place) - fingers)) for name, place in places.items()}
        self.steps += 1
        self.closest = {name: min(far, self.closest.get(name, np.inf)) for name, far in away.items()}
        near = min(away.items(), key=lambda each: each[1], default=None)
        if near is not None and self._closed is None and closing and not self._closing and near[1] <= REACH:
            self._closed = near
        if near is not None and fingers[2] < self._height:
            self._lowest, self._height = near, float(fingers[2])
        self._closing = closing

    def verdict(self, named: Collection[str], usual: Collection[str]) -> dict[str, Any]:
        """What is written of an episode.

        Args:
            named: what the goal that is scored is about. usual: what the scene's own task is about.

        Returns:
            `went`: one of `VERDICTS`; `object`: for which, None for nothing; `distance`: to the nearest at that moment;
            `moment`: "closed" or "lowest"; `closest`: the smallest distance to each object in the whole episode.
        """
        name, far = self._closed or self._lowest or (None, np.inf)
        if far > REACH:
            name = None
        went = "nothing" if name is None else "named" if name in named else "usual" if name in usual else "other"
        return {
            "went": went,
            "object": name,
            "distance": round(float(far), 4) if np.isfinite(far) else None,
            "moment": "closed" if self._closed else "lowest",
            "named": sorted(named),
            "usual": sorted(usual),
            "closest": {each: round(self.closest[each], 4) for each in sorted(self.closest)},
        }
