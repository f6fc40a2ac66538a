"""The benchmark for policies of any host: what is written is what a policy is asked, and an oracle gets it all."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("lerobot")
from apt_plugin.errors import AptError
from apt_plugin.tabletop import data, libero, served
from apt_plugin.tabletop.rollout import evaluate
from apt_plugin.tabletop.splits import SPLITS
from apt_plugin.tabletop.world import World
from apt_plugin.tabletop_command import Data, Trial
from tests.oracle import Knowing

NUMBERS = arrays(np.float32, st.tuples(st.integers(1, 3), st.just(3)), elements=st.floats(0, 1, width=32))


@given(NUMBERS)
def test_an_action_survives_liberos_seven_numbers(action):
    seven = libero.actions(action)
    assert seven.shape[-1] == 7
    assert not seven[..., 2:6].any()
    np.testing.assert_array_equal(libero.poses(seven), action)
    np.testing.assert_array_equal(libero.states(action)[..., [0, 1, 6]], action)


class Oracle(served.Served):
    """Asked as a server is, in this process; the hosts' own servers stand in its place in tests/hosts."""

    def __init__(self, every):
        super().__init__()
        self.ask = Knowing(every).answer


@pytest.mark.parametrize("split", SPLITS)
def test_an_oracle_behind_a_server_gets_every_episode(split):
    """An action of the last leg that is still queued, or a wrong slot of the seven, would cost every policy."""
    every = World().tests(split, 30)
    result = evaluate(Oracle(every), World(), [split], episodes=30, batch=12, keep_frames=0, progress=False)[split]
    assert result.counts == (30, 30)


def test_a_server_of_another_robot_is_refused():
    class Short(served.Served):
        def ask(self, images, states, tasks):
            return np.zeros((len(tasks), 1, 7))

    with pytest.raises(AptError, match="LIBERO config"):
        evaluate(Short(), World(), ["seen"], episodes=2, progress=False)


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "openpi:8000", "isaac:127.0.0.1:5555", "openpi:127.0.0.1:x"])
def test_an_address_says_whose_server_it_is(address):
    with pytest.raises(AptError, match=r"write openpi:127\.0\.0\.1:8000"):
        served.connect(address)


def test_gr00t_layout_holds_the_demonstrations_and_rests_behind_them(tmp_path):
    """GR00T drops frames that no whole chunk follows: without rest it would train on none of them."""
    import cv2
    import pandas as pd

    world = World(chained=0.5)
    Data(tmp_path / "out", "gr00t", labelled=3, unlabelled=2, world=world)()
    root = tmp_path / "out/tabletop/labelled"
    episodes = [part[row] for part in world.training(3, 0).by_legs() for row in range(len(part))]
    tasks = [json.loads(line)["task"] for line in (root / "meta/tasks.jsonl").read_text().splitlines()]
    for number, episode in enumerate(episodes):
        table = pd.read_parquet(root / f"data/chunk-000/episode_{number:06d}.parquet")
        images, states, actions = data.frames(episode)
        length = actions.shape[1]
        assert len(table) == length + 15
        assert tasks[table["task_index"][0]] == episode.instructions()[0]
        np.testing.assert_array_equal(np.stack(table["action"][:length]), libero.actions(actions[0]))
        np.testing.assert_array_equal(np.stack(table["observation.state"][:length]), libero.states(states[0]))
        rest = np.stack(table["action"][length:])
        assert (rest == rest[0]).all()
        np.testing.assert_allclose(rest[:, :2], np.stack(table["observation.state"][length:])[:, :2])
        film = cv2.VideoCapture(str(root / f"videos/chunk-000/observation.images.image/episode_{number:06d}.mp4"))
        shown = [film.read() for _ in range(length + 15)]
        assert all(ok for ok, _ in shown)
        assert not film.read()[0]
        off = np.abs(shown[0][1][..., ::-1].astype(int) - libero.pictures(images[0, 0]).astype(int))
        assert off.mean() < 8  # what the codec loses
    blank = tmp_path / "out/tabletop/unlabelled/meta"
    assert not (blank / "tasks.jsonl").exists()
    assert "annotation" not in json.loads((blank / "modality.json").read_text())
    assert Trial(tmp_path / "out").world() == world


def test_openpis_layout_needs_openpis_lerobot(tmp_path):
    with pytest.raises(AptError, match=r"v2\.1.*Run this command in openpi's environment"):
        Data(tmp_path / "out", "openpi", labelled=1)()
    assert not list(tmp_path.iterdir())  # it left an empty folder


def test_what_cannot_be_tested_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(AptError, match="Name what is tested"):
        Trial(tmp_path)()
    with pytest.raises(AptError, match=r"no tabletop\.json"):
        Trial(tmp_path, policy="x")()
    (tmp_path / "tabletop.json").write_text(json.dumps({"world": {"families": 99}}))
    with pytest.raises(AptError, match="families must be 2 to 10"):
        Trial(tmp_path, policy="x")()
    with pytest.raises(AptError, match="splits"):
        Trial(tmp_path, policy="x", splits=("sen",))()
    with pytest.raises(AptError, match="not empty"):
        Data(tmp_path)()


def test_a_lerobot_policy_is_tested_on_the_world_of_its_data(grounded, tmp_path):
    """The folder's own world, not the default one; and the file holds what the table shows."""
    Data(tmp_path / "out", labelled=2, unlabelled=2, world=World(families=3))()
    report = tmp_path / "r.json"
    Trial(tmp_path / "out", policy=str(grounded), splits=("seen", "chained"), episodes=6, output=report)()
    found = json.loads(report.read_text())
    assert found["world"]["families"] == 3
    assert [row["split"] for row in found["splits"]] == ["seen", "chained"]
    assert all(row["episodes"] == 6 and 0 <= row["success"] <= 1 for row in found["splits"])
    assert found["splits"][0]["blind"] == 0.5
