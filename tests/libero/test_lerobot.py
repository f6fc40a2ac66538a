"""lerobot's own evaluation on `libero_scored`, in the real simulator: an APT checkpoint is told what is scored.

Skips where lerobot or LIBERO does not import, or nothing renders (MUJOCO_GL=egl PYOPENGL_PLATFORM=egl does without a
GPU). The policy is random: what it is told, and that every part fits, is what is looked at.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from apt_plugin.errors import AptError
from tests import processes

pytest.importorskip("libero.libero.benchmark", reason="LIBERO does not import here")
pytest.importorskip("robosuite", reason="LIBERO's simulator (robosuite, mujoco) does not import here")
lerobot = pytest.importorskip("lerobot", reason="lerobot does not import here")
if os.environ.get("MUJOCO_GL") != "egl":
    pytest.skip("nothing renders here: set MUJOCO_GL=egl PYOPENGL_PLATFORM=egl", allow_module_level=True)

SUITES = "libero_goal_task,libero_object_counterfactual"
ENV = [
    "--env.type=libero_scored", "--env.discover_packages_path=apt_plugin.libero.host", "--env.task_ids=[0]",
    "--env.observation_height=64", "--env.observation_width=64",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def config(**more: Any) -> Any:
    from lerobot.envs.factory import make_env_config

    import apt_plugin.libero.host.configuration_env  # noqa: F401  # registers it

    size = {"observation_height": 64, "observation_width": 64}
    return make_env_config("libero_scored", **{"task": SUITES, "task_ids": [0], **size, **more})


def test_an_environment_tells_what_it_scores_and_has_the_hosts_step_limits() -> None:
    from lerobot.envs.factory import make_env

    made = make_env(config(), n_envs=1)
    told = {suite: tasks[0].call("task_description") for suite, tasks in made.items()}
    assert told == {
        "libero_goal_task": ("open the bottom drawer of the cabinet",),
        "libero_object_counterfactual": ("pick up the cream cheese and place it in the basket",),
    }
    limits = [tasks[0].call("_max_episode_steps") for tasks in made.values()]
    assert limits == [(300,), (280,)], "those of the suites that these were made from"


def test_the_processes_of_a_task_begin_with_it() -> None:
    """All at once they are 500 for the file in configs/evaluation, each with a simulator."""
    made = config(task="libero_object_counterfactual", task_ids=None).create_envs(2, True)
    tasks = made["libero_object_counterfactual"]
    assert len(tasks) == 50
    assert all(task._env is None for task in tasks.values())
    try:
        told = tasks[1].call("task_description")
        assert told == ("pick up the salad dressing and place it in the basket",) * 2
        assert tasks[0]._env is None
    finally:
        tasks[1].close()


def test_a_camera_that_nobody_reads_is_not_rendered_after_a_reset_either() -> None:
    (env,) = config(task="libero_object", camera_name="agentview_image").create_envs(1)["libero_object"][0].envs
    env = env.unwrapped
    try:
        for _ in range(2):
            seen, _ = env.reset(seed=0)
            assert list(seen["pixels"]) == ["image"]
            raw = env._env.env._get_observations()
            assert "agentview_image" in raw
            assert "robot0_eye_in_hand_image" not in raw
    finally:
        env.close()


def test_what_cannot_be_done_is_refused_by_its_flag() -> None:
    with pytest.raises(AptError, match=r"--env.task_ids has 10, and libero_goal_task has tasks 0 to 9"):
        config(task_ids=[10]).create_envs(1)
    with pytest.raises(AptError, match=r"--env.hard_reset=false"):
        config(hard_reset=False).create_envs(1)
    with pytest.raises(AptError, match=r"--env.num_steps_wait is -1"):
        config(num_steps_wait=-1).create_envs(1)


def test_lerobot_eval_rolls_an_apt_checkpoint_out(tmp_path: Path) -> None:
    policy = checkpoint(tmp_path)
    out = tmp_path / "eval"
    processes.run([
        Path(sys.executable).with_name("lerobot-eval"), f"--policy.path={policy}", "--policy.device=cpu", *ENV,
        f"--env.task={SUITES}", "--env.episode_length=3", "--eval.n_episodes=1", "--eval.batch_size=1",
        f"--output_dir={out}", f"--env.reached={tmp_path / 'reached.jsonl'}",
    ])  # fmt: skip
    done = json.loads((out / "eval_info.json").read_text())
    assert {suite for suite in done["per_group"]} == set(SUITES.split(","))
    assert done["overall"]["n_episodes"] == 2
    lines = [json.loads(line) for line in (tmp_path / "reached.jsonl").read_text().splitlines()]
    assert {line["suite"]: (line["task"], line["steps"], line["sentence"]) for line in lines} == {
        "libero_goal_task": (0, 3, "open the bottom drawer of the cabinet"),
        "libero_object_counterfactual": (0, 3, "pick up the cream cheese and place it in the basket"),
    }


def checkpoint(folder: Path) -> Path:
    """A Stage 2 of random weights with LIBERO's cameras, state and action."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import make_pre_post_processors

    from tests.hosts.lerobot import tiny

    words, cameras = tiny.tokenizer(folder / "words"), ("image", "image2")
    inputs = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 64, 64)) for name in cameras}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (8,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
    more = {"input_features": inputs, "output_features": outputs, "max_state_dim": 8}
    base = tiny.stock_checkpoint(folder / "base", "pi05", **more)

    def saved(policy: Any, name: str) -> Path:
        policy.save_pretrained(folder / name)
        for processor in make_pre_post_processors(policy.config, dataset_stats=None):
            processor.save_pretrained(folder / name)
        return folder / name

    prior = saved(tiny.stage1("pi05", base, words, **more), "stage1")
    return saved(tiny.stage2("pi05", prior, words, **more), "stage2")
