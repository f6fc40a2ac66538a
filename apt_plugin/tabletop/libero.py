"""The tabletop as a robot that openpi and Isaac GR00T know by name: LIBERO's cameras, state of eight, actions of seven.

    image, wrist_image   the table, enlarged fivefold; black (there is no second camera)
    state                x, y, 0, 0, 0, 0, opening, opening
    action               x, y, 0, 0, 0, 0, opening; absolute poses in [0, 1], as both hosts' LIBERO configs take them

Shape legend: `B` episodes, `T` control steps, `P` image side in pixels, `Q` = 5 P.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.files import write_json
from apt_plugin.tabletop import arm, data
from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.episodes import Episodes

SCALE = 5
SIDE = SCALE * IMAGE_SIZE
CAMERAS = ("image", "wrist_image")
AXES = ("x", "y", "z", "roll", "pitch", "yaw")
PARTS = (*AXES, "gripper")  # as Isaac GR00T takes states and actions apart
LANGUAGE = "human.action.task_description"  # its name for the instruction
STATE, ACTION = 8, 7
#: Isaac GR00T trains on a frame only where a whole chunk (16 actions in its LIBERO config) follows it: with so many
#: still frames behind, those of the demonstration are the ones that count, and their chunks end at rest.
STILL = 15


def pictures(images: np.ndarray) -> np.ndarray:
    """uint8 (..., P, P, 3) -> (..., Q, Q, 3)."""
    return images.repeat(SCALE, axis=-3).repeat(SCALE, axis=-2)


def states(state: np.ndarray) -> np.ndarray:
    """float (..., 3) -> float32 (..., 8)."""
    out = np.zeros((*state.shape[:-1], STATE), np.float32)
    out[..., :2], out[..., 6:] = state[..., :2], state[..., 2:]
    return out


def actions(action: np.ndarray) -> np.ndarray:
    """float (..., 3) -> float32 (..., 7)."""
    out = np.zeros((*action.shape[:-1], ACTION), np.float32)
    out[..., :2], out[..., 6:] = action[..., :2], action[..., 2:]
    return out


def poses(action: np.ndarray) -> np.ndarray:
    """What `actions` was made of: float (..., 7) -> float32 (..., 3)."""
    return np.concatenate([action[..., :2], action[..., 6:7]], axis=-1).astype(np.float32)


def write_openpi(root: Path, episodes: Episodes, labelled: bool) -> None:
    """A LeRobot data set with the names of openpi's LIBERO configs, through the lerobot beside openpi.

    Raises:
        AptError: this is not openpi's lerobot; it could not read what a newer one writes.
    """
    import lerobot
    from lerobot.datasets import lerobot_dataset

    if lerobot_dataset.CODEBASE_VERSION != "v2.1":
        raise AptError(
            f"openpi reads LeRobot data sets of v2.1, and lerobot {lerobot.__version__} here writes "
            f"{lerobot_dataset.CODEBASE_VERSION}. Run this command in openpi's environment."
        )
    image = {"dtype": "image", "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channel"]}
    features = {name: dict(image) for name in CAMERAS}
    features["state"] = {"dtype": "float32", "shape": (STATE,), "names": ["state"]}
    features["actions"] = {"dtype": "float32", "shape": (ACTION,), "names": ["actions"]}
    made: Any = lerobot_dataset.LeRobotDataset.create(
        f"{root.parent.name}/{root.name}", fps=data.FPS, features=features, root=root, robot_type="tabletop",
        use_videos=False,
    )  # fmt: skip
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    for some in data.blocks(episodes, labelled):
        images, state, action = data.frames(some)
        for row, task in enumerate(some.instructions()):
            for t in range(action.shape[1]):
                frame = {"image": pictures(images[row, t]), "wrist_image": black}
                frame |= {"state": states(state[row, t]), "actions": actions(action[row, t])}
                made.add_frame(frame, task if labelled else "")
            made.save_episode()


def write_gr00t(root: Path, episodes: Episodes, labelled: bool) -> None:
    """A data set of Isaac GR00T (LeRobot v2.1, videos, modality.json) for its LIBERO embodiments; `STILL` frames of
    rest follow each demonstration. Unlabelled ones have no task annotation at all."""
    import pandas as pd

    texts: dict[str, int] = {}
    rows, total = [], 0
    for some in data.blocks(episodes, labelled):
        images, state, action = _resting(some)
        for row, task in enumerate(some.instructions()):
            length, episode = action.shape[1], len(rows)
            table: dict[str, Any] = {
                "observation.state": list(states(state[row])), "action": list(actions(action[row])),
                "timestamp": np.arange(length, dtype=np.float32) / data.FPS, "frame_index": np.arange(length),
                "episode_index": np.full(length, episode), "index": total + np.arange(length),
            }  # fmt: skip
            if labelled:
                table["task_index"] = np.full(length, texts.setdefault(task, len(texts)))
            path = root / f"data/chunk-{episode // 1000:03d}/episode_{episode:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(table).to_parquet(path)
            film = pictures(images[row])
            for name, shown in zip(CAMERAS, (film, np.zeros_like(film)), strict=True):
                folder = root / f"videos/chunk-{episode // 1000:03d}/observation.images.{name}"
                _video(folder / f"episode_{episode:06d}.mp4", shown)
            rows.append({"episode_index": episode, "tasks": [task] if labelled else [], "length": length})
            total += length
    _describe(root / "meta", rows, texts, total, labelled)


def _resting(episodes: Episodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`data.frames`, and the gripper at rest where it ended."""
    images, state, action = data.frames(episodes)
    end = arm.step(state[:, -1], action[:, -1])
    still = lambda last: np.repeat(last[:, None], STILL, axis=1)  # noqa: E731
    return (
        np.concatenate([images, still(episodes.render(end))], axis=1),
        np.concatenate([state, still(end)], axis=1),
        np.concatenate([action, still(end)], axis=1),
    )


def _video(path: Path, film: np.ndarray) -> None:
    """uint8 (T, Q, Q, 3), by OpenCV, which the host brings."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    out = cv2.VideoWriter(str(path), code, data.FPS, (SIDE, SIDE))
    if not out.isOpened():
        raise AptError(f"OpenCV {cv2.__version__} here cannot write MPEG-4 video to {path}.")
    for picture in film:
        out.write(np.ascontiguousarray(picture[..., ::-1]))
    out.release()


def _describe(meta: Path, rows: list[dict], texts: dict[str, int], frames: int, labelled: bool) -> None:
    meta.mkdir(parents=True, exist_ok=True)
    first = {name: {"start": at, "end": at + 1} for at, name in enumerate(AXES)}
    layout: dict[str, Any] = {
        "state": {**first, "gripper": {"start": 6, "end": STATE}},
        "action": {**first, "gripper": {"start": 6, "end": ACTION}},
        "video": {name: {"original_key": f"observation.images.{name}"} for name in CAMERAS},
    }
    numbers = {"frame_index": "int64", "episode_index": "int64", "index": "int64", "timestamp": "float32"}
    if labelled:
        layout["annotation"] = {LANGUAGE: {"original_key": "task_index"}}
        numbers["task_index"] = "int64"
        lines = [json.dumps({"task_index": index, "task": text}) for text, index in texts.items()]
        (meta / "tasks.jsonl").write_text("\n".join(lines) + "\n")
    (meta / "episodes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    write_json(meta / "modality.json", layout)
    video = {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channel"]}
    features = {
        "observation.state": {"dtype": "float32", "shape": [STATE], "names": None},
        "action": {"dtype": "float32", "shape": [ACTION], "names": None},
        **{f"observation.images.{name}": video for name in CAMERAS},
        **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in numbers.items()},
    }
    info = {
        "codebase_version": "v2.1", "robot_type": "tabletop", "total_episodes": len(rows), "total_frames": frames,
        "fps": data.FPS, "chunks_size": 1000, "features": features,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    write_json(meta / "info.json", info)
