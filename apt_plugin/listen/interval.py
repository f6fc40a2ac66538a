"""The two cheap numbers, for a training loop to log every interval: blank gap on held-out frames, gate openings.

    listener = open_listener(...)              # once; or any object with the listener's `context` and `frames`
    tracker.log(interval(listener), step)      # as often as you like

The recipe's own policies log the same from their training batch (`interval_numbers`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from apt_plugin.listen.measure import draw, error, noised
from apt_plugin.listen.subject import Listener


def interval_numbers(true: float | None, blank: float | None, gates: Mapping[str, float] | None) -> dict[str, float]:
    """What there is of the two.

    Args:
        true, blank: loss under the instruction and under an empty one, same noise and times.
        gates: opening per fusion layer.

    Returns:
        blank_gap, gate_mean, gate_max; what was not measured is left out.
    """
    out: dict[str, float] = {}
    if true is not None and blank is not None:
        out["blank_gap"] = blank - true
    if gates:
        out |= {"gate_mean": sum(gates.values()) / len(gates), "gate_max": max(gates.values())}
    return out


def interval(listener: Listener, draws: int = 4, batch: int = 32, seed: int = 0) -> dict[str, float]:
    """Both numbers on the listener's frames: two prefix passes and 2 x draws expert passes per frame, no sampling."""
    frames = listener.frames
    noise, times = draw(frames, draws, seed)
    sums = {"true": 0.0, "blank": 0.0}
    for start in range(0, len(frames), batch):
        rows = np.arange(start, min(start + batch, len(frames)))
        x, now, target = noised(frames.actions[rows], noise[rows], times[rows])
        for name, texts in (("true", [frames.task[row] for row in rows]), ("blank", [""] * len(rows))):
            velocity = listener.context(rows.tolist(), texts).velocity(x, now)
            sums[name] += float(error((velocity - target)[..., : frames.width], frames.valid[rows]).mean(1).sum())
    return interval_numbers(sums["true"] / len(frames), sums["blank"] / len(frames), listener.gates())
