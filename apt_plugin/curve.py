"""Training curves in bounded memory, and the one question asked of them: was the prior still improving?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BINS = 256


@dataclass
class Curve:
    """Per-step scalars averaged into at most 2 x BINS equal bins; bins double when they run out.

    Kept inside the checkpoint, so a resumed run goes on with one curve instead of losing the first half.
    """

    width: int = 1  # steps per bin
    sums: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars of optimiser step `step` (counted from 0)."""
        while step // self.width >= 2 * BINS:
            self._double()
        index = step // self.width
        for name, value in values.items():
            sums, counts = self.sums.setdefault(name, []), self.counts.setdefault(name, [])
            missing = index + 1 - len(sums)
            sums.extend([0.0] * missing)
            counts.extend([0] * missing)
            sums[index] += float(value)
            counts[index] += 1

    def _double(self) -> None:
        self.width *= 2
        for name in self.sums:
            for table in (self.sums, self.counts):
                values: Any = table[name] + [0] * (len(table[name]) % 2)
                table[name] = [values[i] + values[i + 1] for i in range(0, len(values), 2)]

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(step at the middle of each non-empty bin, mean value there)."""
        sums, counts = np.asarray(self.sums.get(name, [])), np.asarray(self.counts.get(name, []))
        full = np.flatnonzero(counts)
        return (full + 0.5) * self.width, sums[full] / counts[full] if len(full) else sums[full]

    def as_json(self) -> dict[str, Any]:
        copies = [{name: list(values) for name, values in table.items()} for table in (self.sums, self.counts)]
        return {"width": self.width, "sums": copies[0], "counts": copies[1]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Curve:
        return cls(int(value["width"]), dict(value["sums"]), dict(value["counts"]))


@dataclass(frozen=True)
class Trend:
    """How a loss moved over its last fifth."""

    before: float  # mean over the last-but-one tenth
    after: float  # mean over the last tenth
    error: float  # standard error of their difference, from the spread inside the tenths
    improving: bool
    enough: bool  # enough points to say anything

    def sentence(self) -> str:
        if not self.enough:
            return "Too few steps to tell whether the prior was still improving."
        drop = 100 * (self.before - self.after) / max(abs(self.before), 1e-12)
        moved = f"loss {self.before:.4g} -> {self.after:.4g} over its last tenth ({drop:+.1f} % drop)"
        if self.improving:
            return (
                f"The prior was still improving at the switch: {moved}. More steps would make it a better prior, not "
                "by itself a better listener: the shorter Stage 1 was, down to a single step, the better unseen "
                "instructions were followed (examples/compare/findings.md)."
            )
        return f"The prior had levelled off at the switch: {moved}."


def trend(loss: np.ndarray) -> Trend:
    """Compare the last tenth of a loss curve with the tenth before it.

    Improving means: down by more than two standard errors and by more than 1 %. The comparison needs at least
    five points in each tenth; with fewer it says so instead of guessing.
    """
    size = len(loss) // 10
    if size < 5:
        return Trend(float("nan"), float("nan"), float("nan"), False, False)
    before, after = loss[-2 * size : -size], loss[-size:]
    error = float(np.sqrt(before.var(ddof=1) / size + after.var(ddof=1) / size))
    drop = float(before.mean() - after.mean())
    improving = drop > 2 * error and drop > 0.01 * abs(float(before.mean()))
    return Trend(float(before.mean()), float(after.mean()), error, improving, True)
