"""A real LeRobot data set of a few frames, as LIBERO's looks, written by the lerobot beside this openpi.

python -m tests.hosts.openpi.frames REPO_ID [tasks=2]      under HF_LEROBOT_HOME
"""

from __future__ import annotations

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

TASKS = ("push the red cube", "pull the blue bowl")
FEATURES = {
    "image": {"dtype": "image", "shape": (64, 64, 3), "names": ["height", "width", "channel"]},
    "wrist_image": {"dtype": "image", "shape": (64, 64, 3), "names": ["height", "width", "channel"]},
    "state": {"dtype": "float32", "shape": (8,), "names": ["state"]},
    "actions": {"dtype": "float32", "shape": (7,), "names": ["actions"]},
}


def write(repo_id: str, episodes: int = 4, frames: int = 6, seed: int = 0) -> None:
    made = LeRobotDataset.create(repo_id, fps=10, features=FEATURES, robot_type="panda", use_videos=False)
    rng = np.random.default_rng(seed)
    for episode in range(episodes):
        for _ in range(frames):
            state = rng.uniform(-1, 1, 8).astype(np.float32)
            frame = {name: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for name in ("image", "wrist_image")}
            actions = np.full(7, 0.5 - episode % 2, np.float32) + 0.1 * state[:7]
            made.add_frame(frame | {"state": state, "actions": actions}, task=TASKS[episode % 2])
        made.save_episode()


if __name__ == "__main__":
    write(sys.argv[1])
