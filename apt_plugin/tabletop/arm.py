"""The arm: closed-loop dynamics, a scripted demonstrator, and what counts as success.

Shape legend: `B` episodes, `T` control steps, `O` objects. A gripper state and an action have the same three
numbers, (x, y, opening) in [0, 1]: opening 1 is open, 0 is closed. An action is an absolute key pose, reached
within the step.
"""

import numpy as np

#: Control steps in an episode: key poses, half-way and at the object. Few on purpose: once the gripper is
#: under way the image shows where it is heading, so every further frame dilutes the ones in which the
#: instruction matters.
HORIZON = 2
WIDTH = 3  # numbers of a state, and of an action
MAX_TRAVEL = 0.7  # table widths a control step
TOLERANCE = 1 / 6  # table widths; half a cell
_PROGRESS = np.array([0.5, 1.0])
_CLOSE_FROM = 1  # the jaws close with the last pose


def step(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Move towards the commanded pose, at most `MAX_TRAVEL` a step; the jaws follow within the step.

    Args:
        state, action: float (B, 3). Actions outside [0, 1], and non-finite ones (read as "stay"), are
            clipped, not refused: a policy under test may output anything.

    Returns:
        The next state, float32 (B, 3).
    """
    action = np.clip(np.where(np.isfinite(action), action, state), 0.0, 1.0)
    move = action[:, :2] - state[:, :2]
    length = np.linalg.norm(move, axis=1, keepdims=True)
    move = move * np.minimum(1.0, MAX_TRAVEL / np.maximum(length, 1e-9))
    return np.concatenate([state[:, :2] + move, action[:, 2:]], axis=1).astype(np.float32)


def demonstrate(start: np.ndarray, goal: np.ndarray, closes: np.ndarray, bulge: np.ndarray) -> np.ndarray:
    """Key poses from `start` to `goal` along an arc.

    Args:
        start: float (B, 3). goal: float (B, 2). closes: bool (B,), close the jaws there.
        bulge: float (B,), sideways swing at mid-way as a fraction of the distance; its sign chooses the side,
            which makes the demonstrations multi-modal as human ones are.

    Returns:
        float32 (B, `HORIZON`, 3).
    """
    line = goal - start[:, :2]
    side = np.stack([-line[:, 1], line[:, 0]], axis=1)
    along = start[:, None, :2] + _PROGRESS[:, None] * line[:, None]
    swing = np.sin(np.pi * _PROGRESS)[:, None] * (bulge[:, None] * side)[:, None]
    opening = np.ones((len(start), HORIZON, 1))
    opening[:, _CLOSE_FROM:, 0] = np.where(closes, 0.0, 1.0)[:, None]
    return np.clip(np.concatenate([along + swing, opening], axis=2), 0.0, 1.0).astype(np.float32)


def reached(state: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The object under the gripper: the nearest within `TOLERANCE`, or -1.

    Args:
        state: float (B, 3). places: float (B, O, 2).

    Returns:
        int (B,).
    """
    distance = np.linalg.norm(places - state[:, None, :2], axis=2)
    nearest = distance.argmin(axis=1)
    return np.where(distance.min(axis=1) <= TOLERANCE, nearest, -1)
