"""examples/tabletop.md in openpi: its lerobot writes the sets, its trainer trains on them, its server is tested."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from apt_plugin.stages import read_record
from apt_plugin.tabletop import data, libero, served
from apt_plugin.tabletop.rollout import evaluate
from apt_plugin.tabletop.world import SPLITS, World
from apt_plugin.tabletop_command import LABELLED, UNLABELLED
from tests.hosts.openpi.test_round_trip import (
    FAMILY,
    SCRIPTS,
    kill,
    log_of,
    pytestmark,  # noqa: F401
    start,
    stock_python,
    train,
    wait_for_server,
)
from tests.oracle import Knowing
from tests.ports import free_port

WORLD = World()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("openpi_tabletop")
    sizes = ["--labelled=4", "--unlabelled=3"]
    done = start(root, "tabletop", "data", "set", "--layout=openpi", *sizes, plain=True).wait()
    assert done == 0, log_of(root)
    return root


@pytest.fixture(scope="module")
def env(root):
    return {
        "HF_LEROBOT_HOME": str(root / "set"),
        "APT_TEST_FRAMES": "1",
        "HF_HUB_OFFLINE": "1",
        "APT_TEST_REPO": LABELLED,
    }


def test_openpis_own_data_set_reads_the_demonstrations(root):
    """Frames, chunks that end at rest, words; and none for the others."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    chunk = {"actions": [t / data.FPS for t in range(4)]}
    told = LeRobotDataset("tabletop/labelled", root=root / "set/tabletop/labelled", delta_timestamps=chunk)
    episodes = WORLD.training(4, 0)
    images, states, actions = data.frames(episodes)
    assert len(told) == 8
    for row, text in enumerate(episodes.instructions()):
        frame = told[2 * row]
        assert frame["task"] == text
        image = np.asarray(frame["image"]).transpose(1, 2, 0) * 255
        np.testing.assert_allclose(image[::5, ::5], images[row, 0], atol=0.6)
        np.testing.assert_allclose(frame["state"], libero.states(states[row, 0]))
        np.testing.assert_allclose(frame["actions"], libero.actions(actions[row])[[0, 1, 1, 1]])
    blank = LeRobotDataset("tabletop/unlabelled", root=root / "set/tabletop/unlabelled")
    assert {blank[index]["task"] for index in range(len(blank))} == {""}


@pytest.mark.parametrize("split", ["task", "chained"])
def test_an_oracle_behind_openpis_server_gets_every_episode(split):
    from openpi.serving.websocket_policy_server import WebsocketPolicyServer
    from openpi_client.base_policy import BasePolicy

    every = WORLD.tests(split, 5)

    class Oracle(BasePolicy):
        knowing = Knowing(every)

        def infer(self, obs):
            assert not obs["observation/wrist_image"].any()
            asked = obs["observation/image"][None], obs["observation/state"][None], [obs["prompt"]]
            return {"actions": self.knowing.answer(*asked)[0]}

        def reset(self):
            pass

    at = free_port()
    server = WebsocketPolicyServer(Oracle(), "127.0.0.1", at)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    actor = served.connect(f"openpi:127.0.0.1:{at}")
    result = evaluate(actor, WORLD, [split], episodes=5, batch=1, keep_frames=0, progress=False)[split]
    assert result.counts == (5, 5)


def test_both_stages_then_the_served_policy_on_every_split(root, env):
    """Norm stats, Stage 1 on the unlabelled set, Stage 2, the server and the test: the commands of the walk-through."""
    stats = (
        "import sys, tests.hosts.openpi.preload\n"
        f"sys.path.insert(0, {str(SCRIPTS.parent)!r})\n"
        "from scripts import compute_norm_stats\n"
        f"compute_norm_stats.main('tiny_{FAMILY}')\n"
    )
    for repo in (UNLABELLED, LABELLED):
        done = stock_python(root, stats, **env | {"APT_TEST_REPO": repo})
        assert done.returncode == 0, done.stderr[-3000:]
    more = [f"--apt.stage{stage}.num-train-steps=2" for stage in (1, 2)]
    more += ["--apt.prove=false", f"--apt.stage1.data.repo-id={UNLABELLED}"]
    assert train(root, "both", *more, **env).wait() == 0, log_of(root)
    folder = root / f"checkpoints/tiny_{FAMILY}_apt2/e1/1"
    assert read_record(folder / "assets").stage == 2
    at = free_port()
    serve = [str(SCRIPTS / "serve_policy.py"), f"--port={at}", "policy:checkpoint"]
    process = start(root, *serve, f"--policy.config=tiny_{FAMILY}", f"--policy.dir={folder}", "--recipe", "apt", **env)
    try:
        wait_for_server(process, at, root)
        test = ["--server", f"openpi:127.0.0.1:{at}", "--episodes=2", "--output=r.json"]
        assert start(root, "tabletop", "test", "set", *test, plain=True).wait() == 0, log_of(root)
    finally:
        kill(process)
    found = json.loads((root / "r.json").read_text())["splits"]
    assert [row["split"] for row in found] == list(SPLITS)
    assert all(row["episodes"] == 2 and 0 <= row["success"] <= 1 for row in found)
