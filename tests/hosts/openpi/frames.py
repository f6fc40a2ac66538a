"""A real LeRobot data set of a few frames, as LIBERO's looks, written by the lerobot beside this openpi.

python -m tests.hosts.openpi.frames REPO_ID [droid]      under HF_LEROBOT_HOME
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

PICTURE = FEATURES["image"]
DROID = {  # what examples/droid/convert_droid_data_to_lerobot.py of the host writes, in small pictures
    "exterior_image_1_left": PICTURE, "exterior_image_2_left": PICTURE, "wrist_image_left": PICTURE,
    "joint_position": {"dtype": "float32", "shape": (7,), "names": ["joint_position"]},
    "gripper_position": {"dtype": "float32", "shape": (1,), "names": ["gripper_position"]},
    "actions": {"dtype": "float32", "shape": (8,), "names": ["actions"]},
}  # fmt: skip


def write_droid(repo_id: str, episodes: int = 4, frames: int = 6) -> None:
    made = LeRobotDataset.create(repo_id, fps=15, features=DROID, robot_type="panda", use_videos=False)
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        for _ in range(frames):
            made.add_frame(
                {
                    name: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                    if feature["dtype"] == "image"
                    else rng.uniform(-1, 1, feature["shape"]).astype(np.float32)
                    for name, feature in DROID.items()
                },
                task=TASKS[episode % 2],
            )
        made.save_episode()


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
    (write_droid if sys.argv[2:] == ["droid"] else write)(sys.argv[1])
