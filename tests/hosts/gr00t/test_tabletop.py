"""examples/tabletop.md in Isaac GR00T: its loader reads the sets, its trainer trains on them, its server is tested."""

from __future__ import annotations

from tests import processes

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from apt_plugin.hosts.gr00t.checkpoints import last_whole
from apt_plugin.stages import read_record
from apt_plugin.tabletop import arm, data, libero, served
from apt_plugin.tabletop.rollout import evaluate
from apt_plugin.tabletop.world import SPLITS, World
from tests.hosts.gr00t import tiny
from tests.oracle import Knowing
from tests.ports import free_port

pytestmark = pytest.mark.slow  # each starts real host processes
WORLD = World()


def plugin(where, *command, **options):
    command = [sys.executable, "-m", "apt_plugin", *command]
    return processes.start(command, cwd=where, env=tiny.environment(), **options)


@pytest.fixture(scope="module")
def sets(where):
    command = ["tabletop", "data", "set", "--layout=gr00t", "--labelled=4", "--unlabelled=3"]
    assert plugin(where, *command).wait() == 0
    return where / "set"


def test_the_hosts_loader_takes_the_frames_of_each_demonstration_and_no_others(sets):
    from gr00t.configs.data.embodiment_configs import MODALITY_CONFIGS
    from gr00t.data.dataset.lerobot_episode_loader import LeRobotEpisodeLoader
    from gr00t.data.dataset.sharded_single_step_dataset import ShardedSingleStepDataset, extract_step_data
    from gr00t.data.embodiment_tags import EmbodimentTag
    from gr00t.data.stats import generate_stats

    generate_stats(sets / "tabletop/labelled")  # the trainer does so by itself
    modality, tag = MODALITY_CONFIGS["libero_sim"], EmbodimentTag[tiny.TAG]
    loader = LeRobotEpisodeLoader(sets / "tabletop/labelled", modality)
    images, states, actions = data.frames(WORLD.training(4, 0))
    for row, text in enumerate(WORLD.training(4, 0).instructions()):
        step = extract_step_data(loader[row], 0, modality, tag)
        assert step.text == text
        assert (
            np.abs(step.images["image"][0].astype(int) - libero.pictures(images[row, 0])).mean() < 8
        )  # the codec's loss
        assert not np.asarray(step.images["wrist_image"]).any()
        seven = np.concatenate([step.actions[name] for name in libero.PARTS], axis=1)
        np.testing.assert_allclose(seven[:2], libero.actions(actions[row]), atol=1e-6)
        rest = libero.actions(arm.step(states[row, -1:], actions[row, -1:]))
        np.testing.assert_allclose(seven[2:], np.repeat(rest, 14, axis=0), atol=1e-6)
        np.testing.assert_allclose(step.states["x"][0], states[row, 0, :1], atol=1e-6)
    counts = [ShardedSingleStepDataset.get_effective_episode_length(_Sized(loader, 16), row) for row in range(4)]
    assert counts == [2, 2, 2, 2]


class _Sized:
    """What the host's method reads of its data set."""

    def __init__(self, loader, horizon):
        self.episode_loader, self.action_horizon = loader, horizon


@pytest.mark.parametrize("split", ["task", "chained"])
def test_an_oracle_behind_the_hosts_server_gets_every_episode(split):
    from gr00t.policy.policy import BasePolicy
    from gr00t.policy.server_client import PolicyServer

    every = WORLD.tests(split, 6)

    class Oracle(BasePolicy):
        knowing = Knowing(every)

        def check_observation(self, observation):
            pass

        def check_action(self, action):
            pass

        def reset(self, options=None):
            return {}

        def _get_action(self, observation, options=None):
            seen = observation["state"]
            states = np.concatenate([seen[name][:, 0] for name in libero.PARTS], axis=1)
            tasks = [each[0] for each in observation["language"][served.LANGUAGE]]
            seven = self.knowing.answer(observation["video"]["image"][:, 0], states, tasks)
            parts = {name: seven[..., at : at + 1] for at, name in enumerate(libero.PARTS)}
            return parts, {}

    at = free_port()
    server = PolicyServer(Oracle(strict=False), host="127.0.0.1", port=at)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    actor = served.connect(f"gr00t:127.0.0.1:{at}")
    try:
        result = evaluate(actor, WORLD, [split], episodes=6, batch=4, keep_frames=0, progress=False)[split]
        assert result.counts == (6, 6)
    finally:
        actor.client.kill_server()
        thread.join()
        server.close()  # zmq waits for ever where a context is collected with its socket open


def test_both_stages_then_the_served_policy_on_every_split(where, sets):
    """Stage 1 on the set without annotation, Stage 2 on the one with it, the server and the test."""
    out = where / "table"
    more = ["--apt.stage1.dataset-path", "set/tabletop/unlabelled", "--apt.prove=false"]
    done = tiny.finetune(where, out, *more, data="set/tabletop/labelled")
    assert done.returncode == 0, done.stderr[-3000:]
    model = last_whole(out / "stage2")
    assert read_record(model).stage == 2
    at = free_port()
    server = plugin(
        where, "run", "gr00t/eval/run_gr00t_server.py", "--model-path", str(model), "--embodiment-tag", tiny.TAG,
        "--device", "cpu", "--host", "127.0.0.1", "--port", str(at), "--recipe", "apt", stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        test = ["tabletop", "test", "set", "--server", f"gr00t:127.0.0.1:{at}", "--episodes=2", "--output=r.json"]
        assert plugin(where, *test).wait() == 0
    finally:
        processes.end(server)  # the launcher and the host's process
    found = json.loads((where / "r.json").read_text())["splits"]
    assert [row["split"] for row in found] == list(SPLITS)
    assert all(row["episodes"] == 2 and 0 <= row["success"] <= 1 for row in found)
