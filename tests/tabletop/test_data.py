"""Datasets: what lerobot reads back must be what the world showed."""

import numpy as np
import pytest

from apt_plugin.tabletop import arm
from apt_plugin.tabletop.data import CAMERA, frames, reference_stats, write, write_training
from apt_plugin.tabletop.world import World

pytest.importorskip("lerobot")


def read(root):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("tabletop/demonstrations", root=root)


def test_round_trip(demonstrations):
    """A swapped axis, a shifted action or a lossy image would train every policy on another world."""
    episodes = World().training(6)
    images, states, actions = frames(episodes)
    dataset = read(demonstrations)
    assert dataset.num_episodes == 6
    assert len(dataset) == 6 * arm.HORIZON
    for index in (0, arm.HORIZON, len(dataset) - 1):
        row, t = divmod(index, arm.HORIZON)
        item = dataset[index]
        assert np.array_equal((item[CAMERA].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8), images[row, t])
        assert np.array_equal(item["observation.state"].numpy(), states[row, t])
        assert np.array_equal(item["action"].numpy(), actions[row, t])
        assert item["task"] == episodes.instructions()[row]


def test_unlabelled_form_has_an_empty_task_and_the_same_pairs(tmp_path):
    """A Stage-1 set that still carried instructions would leak language into a language-free prior."""
    root = write_training(tmp_path / "unlabelled", World(), 3, labelled=False, progress=False)
    dataset = read(root)
    assert {dataset[i]["task"] for i in range(len(dataset))} == {""}
    assert np.array_equal(dataset[0]["action"].numpy(), frames(World().training(3))[2][0, 0])


def test_chained_demonstrations_are_twice_as_long(tmp_path):
    """A chained episode cut after its first object would teach that one object is enough."""
    world = World(chained=0.5)
    episodes = world.training(8)
    dataset = read(write_training(tmp_path / "chained", world, 8, progress=False))
    double = episodes.by_legs()[1]
    assert 0 < len(double) < 8
    assert len(dataset) == arm.HORIZON * (8 + len(double))
    lengths = [row["length"] for row in dataset.meta.episodes]
    assert sorted(lengths) == sorted(arm.HORIZON * (1 + (episodes.then >= 0)))
    assert dataset[len(dataset) - 1]["task"] == double.instructions()[-1]
    assert np.array_equal(dataset[len(dataset) - 1]["action"].numpy(), double.demonstrate()[-1, -1])


def test_statistics_cover_the_table(demonstrations):
    """lerobot averages quantiles of episodes, which are far too narrow: normalised states would leave π0.5's
    256 bins."""
    stats = read(demonstrations).meta.stats["observation.state"]
    assert np.allclose(stats["q01"], reference_stats(World())["observation.state"]["q01"])
    _, states, _ = frames(World().training(500, seed=9), draw=False)
    inside = (states >= stats["q01"] - 1e-6) & (states <= stats["q99"] + 1e-6)
    assert inside.mean() > 0.97


def test_overwrite_never_deletes_what_is_not_a_dataset(tmp_path):
    """`overwrite=True` with a mistyped root must not remove someone's directory."""
    precious = tmp_path / "thesis"
    precious.mkdir()
    with pytest.raises(FileExistsError, match="left alone"):
        write(precious, World().training(1), overwrite=True, progress=False)
    assert precious.exists()
