"""What was recorded, as a data set of lerobot's own class (v3.0)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apt_libero.plan import KEYS, RANGES, Data
from apt_libero.record import folder, kept
from apt_plugin.errors import AptError

POSE = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z")


def features(data: Data) -> dict[str, Any]:
    """lerobot's names for LIBERO."""
    shape = {"dtype": "image", "shape": (data.pixels, data.pixels, 3), "names": ["height", "width", "channels"]}
    state, action = [*POSE, "gripper_left", "gripper_right"], [*POSE, "gripper"]
    return {
        **dict.fromkeys(KEYS[: data.cameras], shape),
        "observation.state": {"dtype": "float32", "shape": (8,), "names": state},
        "action": {"dtype": "float32", "shape": (7,), "names": action},
    }


def write(data: Data, out: Path, root: Path) -> Mapping[str, int]:
    """The successful demonstrations recorded so far -> `root`, whole or not at all.

    Raises:
        AptError: `root` is there already, or nothing was recorded.
    """
    from lerobot.datasets.io_utils import write_stats
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if root.exists():
        raise AptError(f"{root} is there already: name another --dataset, or remove it.")
    good = [each for each in kept(data, out) if each["success"]]
    partial = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    made: Any = LeRobotDataset.create(
        f"apt-libero/{root.name}", fps=data.hz, features=features(data), root=partial, robot_type="panda",
        use_videos=False, metadata_buffer_size=500,
    )  # fmt: skip
    for each in good:
        name = f"{each['scene']:02d}-{each['number']:04d}.npz"
        with np.load(folder(out, data) / "episodes" / name) as stored:
            arrays = [stored[key] for key in ("images", "states", "actions")]
        for images, state, action in zip(*arrays, strict=True):
            made.add_frame({
                **dict(zip(KEYS, images, strict=False)), "observation.state": state, "action": action,
                "task": each["sentence"] if each["told"] else "",
            })  # fmt: skip
        made.save_episode()
    made.finalize()
    write_stats(ranged(made.meta.stats or {}), partial)
    partial.rename(root)
    return {"episodes": made.num_episodes, "frames": made.num_frames}


def ranged(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A set's statistics with `RANGES` in the place of its own outer quantiles."""
    out = {key: dict(group) for key, group in stats.items()}
    for key, limits in RANGES.items():
        out.setdefault(key, {}).update(q01=np.array([low for low, _ in limits]), q99=np.array([up for _, up in limits]))
    return out
