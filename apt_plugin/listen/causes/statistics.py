"""Do the statistics fit? Demonstrated actions and states, normalised as the policy normalises them.

    F frames   T action tokens   A dimensions

Every way of normalising puts the bulk of its own data within about 2 of 0. So the values themselves tell, whatever the
way: far outside, the statistics are another data set's; thousands away, a range is zero; at the edge, values were cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from apt_plugin.listen.causes.cause import Cause, Question

if TYPE_CHECKING:
    from apt_plugin.listen.subject import Frames

QUESTION = Question("statistics", "Do the statistics fit the data?", "The statistics do not fit the data")
FAR, ZERO = 5.0, 1e3
BULK = (5, 95)  # per cent
NARROW = 0.02  # standard deviation
PEGGED = 0.2  # share of values at the edge
STEPS = 8  # fewer different values are a switch, such as a gripper
NAME = "Name the data set that the policy was trained on, or compute the statistics on this one and train with them"


def look(frames: Frames, state: np.ndarray | None) -> Cause:
    """The cause from the demonstrated chunks, inside their episodes, and the states [F, S] where they are known."""
    actions = frames.shown[np.asarray(frames.valid, bool)]  # [N, A]
    if not len(actions):
        return QUESTION.unknown("No frame has actions.")
    parts = {"action": actions} | ({} if state is None else {"state": np.asarray(state, np.float64)})
    for name, values in parts.items():
        if said := _wrong(name, values):
            return QUESTION.found(said, f"{NAME}.")
    low, high = np.percentile(actions, BULK)
    known = "actions and states" if state is not None else "actions"
    return QUESTION.ruled_out(f"Normalised {known} lie where they should: 90 % of actions in {low:.2f} to {high:.2f}.")


def _wrong(name: str, values: np.ndarray) -> list[str]:
    if not np.isfinite(values).all():
        dims = _dims(~np.isfinite(values).all(0))
        return [f"Normalised {name}s are not finite in dimension {dims}: a statistic is missing or not a number."]
    edge = np.abs(values).max(0)
    if (zero := edge > ZERO).any():
        worst = int(edge.argmax())
        return [
            f"Normalised {name}s reach {edge[worst]:.1e} in dimension {_dims(zero)}: the range there is zero or nearly "
            "so, while the data move."
        ]
    low, high = np.percentile(values, BULK, axis=0)
    if (far := np.maximum(-low, high) > FAR).any():
        worst = int(np.maximum(-low, high).argmax())
        return [
            f"Normalised {name}s lie far outside in dimension {_dims(far)}: 90 % in {low[worst]:.1f} to "
            f"{high[worst]:.1f} in dimension {worst}, where about -2 to 2 is right. They are another data set's."
        ]
    moving = np.ptp(values, 0) > 0
    narrow = moving & (values.std(0) < NARROW)
    if moving.sum() and narrow.sum() > moving.sum() / 2:
        return [
            f"Normalised {name}s hardly move in dimension {_dims(narrow)} (standard deviation under {NARROW}): the "
            "statistics are of data that reach much further."
        ]
    return _cut(name, values, moving)


def _cut(name: str, values: np.ndarray, moving: np.ndarray) -> list[str]:
    """Values that were clipped to +-1, in most dimensions that are no switch."""
    fine = [d for d in np.flatnonzero(moving) if len(np.unique(values[:, d])) > STEPS]
    at_edge = {d: float((np.abs(np.abs(values[:, d]) - 1) < 1e-6).mean()) for d in fine}
    pegged = [d for d, share in at_edge.items() if share > PEGGED]
    if not fine or len(pegged) <= len(fine) / 2:
        return []
    most = 100 * max(at_edge.values())
    return [f"Normalised {name}s stand at their limit in dimension {_dims(pegged)}, up to {most:.0f} % of them: cut."]


def _dims(which: Any) -> str:
    """Of a mask over dimensions, or of indices."""
    which = np.asarray(which)
    return ", ".join(str(int(index)) for index in (np.flatnonzero(which) if which.dtype == bool else which))
