"""Pictures of LIBERO's scenes with their objects moved about: what the tiny VLM learns to see and to point at.

N pictures of a scene   O objects in it   P image side in pixels

<out>/looks-<pixels>/<scene>.npz   images uint8 [N, P, P, 3], pixels float32 [N, O, 2] (column, row), names [O]
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from apt_libero.plan import Data
from apt_plugin import files

ROOM = ((-0.24, 0.18), (-0.28, 0.09))  # metres, x and y, where LIBERO puts objects
APART = 0.085
CAMERA = "agentview"
SCENES = 10


def folder(out: Path, pixels: int) -> Path:
    return out / f"looks-{pixels}"


def take(out: Path, count: int, pixels: int) -> int:
    """The pictures of the scenes that have none yet; how many scenes that were.

    Raises:
        AptError: no LIBERO here.
    """
    from apt_libero.scene import opened

    did = 0
    for number in range(SCENES):
        path = folder(out, pixels) / f"{number}.npz"
        if path.is_file():
            continue
        scene = opened(number, Data(pixels=pixels))
        try:
            images, where, names = pictures(scene, count, np.random.default_rng([7, number]))
        finally:
            scene.close()
        packed = io.BytesIO()
        np.savez_compressed(packed, images=images, pixels=where, names=np.array(names))
        files.write_bytes(path, packed.getvalue())
        did += 1
    return did


def pictures(scene: Any, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """`count` pictures with every object but the basket somewhere else."""
    scene.begin(0)
    sim, names = scene.inner.sim, [name for name in scene.inner.objects_dict if not name.startswith("basket")]
    joints = [scene.inner.objects_dict[name].joints[0] for name in names]
    size = scene.env.observation_width
    images, where = [], []
    for _ in range(count):
        for joint, at in zip(joints, places(rng, len(names)), strict=True):
            pose = np.array(sim.data.get_joint_qpos(joint))
            sim.data.set_joint_qpos(joint, np.array((*at, *pose[2:])))
        sim.forward()
        images.append(sim.render(camera_name=CAMERA, width=size, height=size)[::-1, ::-1])
        where.append([pixel(sim, scene.place(name), size) for name in names])
    return np.stack(images), np.array(where, np.float32), [name.rsplit("_", 1)[0].replace("_", " ") for name in names]


def places(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 2] metres, none nearer than `APART` to another."""
    low, high = np.array(ROOM).T
    found: list[np.ndarray] = []
    while len(found) < count:
        at = rng.uniform(low, high)
        if all(np.linalg.norm(at - other) >= APART for other in found):
            found.append(at)
    return np.array(found)


def pixel(sim: Any, at: np.ndarray, size: int) -> tuple[float, float]:
    """(column, row) of a point, in pictures turned as lerobot turns them."""
    number = sim.model.camera_name2id(CAMERA)
    x, y, z = np.array(sim.data.cam_xmat[number]).reshape(3, 3).T @ (at - sim.data.cam_xpos[number])
    scale = size / 2 / np.tan(np.radians(sim.model.cam_fovy[number]) / 2)
    return size / 2 - scale * x / -z, size / 2 - scale * y / -z
