"""A scripted expert for `libero_object`: above the object, wrist turned, down, close, lift, over the basket, open.

Pure: it sees positions that the simulator tells, and answers LIBERO's own actions (six changes of the end effector's
pose and the gripper, each in [-1, 1]). Lengths are metres, angles radians.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Pose = tuple[np.ndarray, np.ndarray]

OPEN, CLOSED = -1.0, 1.0
REACH, TURN = 0.05, 0.5  # what an action of 1 asks of the controller in a step
NEAR, TURNED = 0.015, 0.12
FEWEST, LONGEST = 3, 14  # steps of a phase
ABOVE, LIFTED, LOWERED = 0.16, 0.30, 0.22  # over the grasp; over the floor


@dataclass(frozen=True)
class Grasp:
    """How an object is taken: the fingers' height over its origin; `yaw`: the wrist's turn, 0 closes along y."""

    height: float = 0.01
    yaw: float = 0.0


#: Measured: tall things are taken under the cap, where the palm does not touch; across a flat box the fingers close
#: along y (a turn of 90 degrees lost cream cheese, butter and pudding).
TALL, FLAT = Grasp(0.035), Grasp(-0.006)
GRASPS: Mapping[str, Grasp] = {
    **dict.fromkeys(("milk", "orange_juice", "salad_dressing", "bbq_sauce", "ketchup"), TALL),
    **dict.fromkeys(("chocolate_pudding", "cream_cheese"), FLAT),
}


@dataclass(frozen=True)
class Phase:
    """Go to `target` (None: stay); over after `steps`, or when it is near."""

    target: np.ndarray | None
    gripper: float
    yaw: float = 0.0
    steps: int = LONGEST


class Expert:
    """Fetches one object; `act` until `over`. A pose is (position [3], quaternion [4] x y z w) of the end effector."""

    def __init__(
        self, pose: Pose, at: np.ndarray, basket: np.ndarray, name: str, jitter: np.ndarray, grasp: Grasp | None = None
    ):
        """
        Args:
            pose: at the start. at, basket: [3] each, where the object and the basket are.
            name: of the object in LIBERO, such as "milk_1".
            jitter: [2], how far beside the object the approach is aimed at.
        """
        grasp = grasp or GRASPS.get(name.rsplit("_", 1)[0], Grasp())
        (x, y, z), yaw = at, grasp.yaw
        grip = z + grasp.height
        self.phases = [
            Phase(np.array((x + jitter[0], y + jitter[1], grip + ABOVE)), OPEN, yaw),
            Phase(np.array((x, y, grip)), OPEN, yaw),
            Phase(None, CLOSED, yaw, FEWEST),
            Phase(np.array((x, y, LIFTED)), CLOSED, yaw),
            Phase(np.array((*basket[:2], LIFTED)), CLOSED, yaw),
            Phase(np.array((*basket[:2], LOWERED)), CLOSED, yaw),
            Phase(None, OPEN, yaw, FEWEST),
        ]
        self.place, self.spent = 0, 0
        self.start = yaw_of(pose)

    @property
    def over(self) -> bool:
        return self.place >= len(self.phases)

    def act(self, pose: Pose) -> np.ndarray:
        """[7] float32."""
        phase = self.phases[self.place]
        away = np.zeros(3) if phase.target is None else phase.target - pose[0]
        turn = (self.start + phase.yaw - yaw_of(pose) + np.pi) % (2 * np.pi) - np.pi
        action = np.array((*np.clip(away / REACH, -1, 1), 0, 0, np.clip(turn / TURN, -1, 1), phase.gripper))
        self.spent += 1
        near = phase.target is not None and np.linalg.norm(away) < NEAR and abs(turn) < TURNED
        if near or self.spent >= phase.steps:
            self.place, self.spent = self.place + 1, 0
        return action.astype(np.float32)


def yaw_of(pose: Pose) -> float:
    """Of the fingers, about the vertical axis."""
    x, y, z, w = pose[1]
    return float(np.arctan2(2 * (x * y + z * w), 1 - 2 * (y * y + z * z)))
