"""What was recorded, as lerobot's own data set; and one demonstration in the real simulator, where it is installed."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from apt_libero import pack, record
from apt_libero.plan import KEYS, RANGES, Data, Demo
from apt_plugin import files
from apt_plugin.errors import AptError

SMALL = Data(per_object=2, pixels=16, cameras=2)


def kept(out: Path, demo: Demo, success: bool, frames: int = 3, sentence: str = "pick up the milk") -> None:
    """As `record` leaves it."""
    told = {**dataclasses.asdict(demo), "sentence": sentence, "success": success, "attempts": 1, "frames": frames}
    files.write_json(record.folder(out, SMALL) / "results" / f"{demo.key}.json", {**told, "cpu": 1.0})
    if success:
        path = record.folder(out, SMALL) / "episodes" / f"{demo.key}.npz"
        path.parent.mkdir(exist_ok=True)
        images = np.full((frames, 2, 16, 16, 3), demo.scene, np.uint8)
        states, actions = np.full((frames, 8), 0.1, np.float32), np.full((frames, 7), 0.5, np.float32)
        np.savez_compressed(path, images=images, states=states, actions=actions)


def test_successful_demonstrations_become_a_data_set_of_lerobots_own(tmp_path: Path) -> None:
    pytest.importorskip("lerobot", reason="lerobot does not import here")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    kept(tmp_path, Demo(0, 0, 0, True), True)
    kept(tmp_path, Demo(0, 1, 2, True), False)
    kept(tmp_path, Demo(1, 0, 3, False), True, frames=4)
    kept(tmp_path, Demo(1, 2, 3, True), True)  # of a set with more of them
    root = tmp_path / "set"
    assert pack.write(SMALL, tmp_path, root) == {"episodes": 2, "frames": 7}
    read = LeRobotDataset("apt-libero/set", root=root)
    assert (read.num_episodes, read.num_frames, read.fps) == (2, 7, SMALL.hz)
    assert [read[place]["task"] for place in (0, 3)] == ["pick up the milk", ""], "play has no words"
    assert all(tuple(read[0][key].shape) == (3, 16, 16) for key in KEYS)
    assert float(read[3][KEYS[0]].max()) == pytest.approx(1 / 255)
    assert read.meta.stats is not None
    assert np.array_equal(read.meta.stats["action"]["q99"], np.ones(7)), "every set normalises alike"
    assert np.allclose(read.meta.stats["observation.state"]["q01"], [low for low, _ in RANGES["observation.state"]])
    with pytest.raises(AptError, match="is there already"):
        pack.write(SMALL, tmp_path, root)
    with pytest.raises(AptError, match="holds no demonstration of this set"):
        pack.write(dataclasses.replace(SMALL, seed=1), tmp_path, tmp_path / "other")


def test_a_demonstration_in_the_real_simulator_is_recorded_once(tmp_path: Path) -> None:
    """What lerobot's evaluation would show a policy, and the goal of the sentence, not the scene's usual one."""
    pytest.importorskip("libero.libero.benchmark", reason="LIBERO does not import here")
    pytest.importorskip("robosuite", reason="LIBERO's simulator (robosuite, mujoco) does not import here")
    if os.environ.get("MUJOCO_GL") != "egl":
        pytest.skip("nothing renders here: set MUJOCO_GL=egl PYOPENGL_PLATFORM=egl")
    from apt_libero.scene import opened

    data = Data(per_object=1, pixels=32)
    made = record.planned(data)
    assert len(made) == 10
    scene = opened(0, data)
    try:
        assert scene.ask(0) == "alphabet_soup_1"
        told = {scene.suite.get_task(task).language: task for task in range(10)}
        wanted = told["pick up the milk and place it in the basket"]
        episode = scene.record(Demo(0, 0, wanted, True), data, 0)
        assert episode.success
        assert episode.images.shape == (len(episode.actions), 1, 32, 32, 3)
        assert len(episode.actions) >= 20
        assert episode.states.shape == (len(episode.actions), 8)
    finally:
        scene.close()
