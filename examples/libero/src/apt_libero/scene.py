"""A scene of the real simulator, through lerobot's own LIBERO environment: what is recorded is what it evaluates on.

T frames   C cameras   P image side in pixels
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.envs.utils import preprocess_observation
from lerobot.processor import LiberoProcessorStep

from apt_libero.expert import Expert
from apt_libero.plan import KEYS, SUITE, WAIT, Data, Demo
from apt_plugin.libero import suites
from apt_plugin.libero.gym_env import ScoredLiberoEnv
from apt_plugin.listen import bddl, scored

CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")


@dataclass(frozen=True)
class Episode:
    """`images` uint8 [T, C, P, P, 3], `states` float32 [T, 8] and `actions` float32 [T, 7] as lerobot has LIBERO's."""

    images: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    success: bool
    cpu: float  # seconds


def allowed(suite: suites.Suite) -> list[list[int]]:
    """For each scene, the tasks whose goal it holds, its own among them."""
    texts = [bddl.text_of(scored.file_of(task)) for task in suite.tasks]
    out = [[scene] for scene in range(len(texts))]
    for scene, other in suites.pairs(texts):
        out[scene].append(other)
    return out


def settings(data: Data) -> dict[str, Any]:
    """Of lerobot's environment. `control_freq` is what its flag `--env.fps` sets."""
    return {
        "obs_type": "pixels_agent_pos", "observation_height": data.pixels, "observation_width": data.pixels,
        "control_freq": data.hz, "num_steps_wait": WAIT, "camera_name": ",".join(CAMERAS[: data.cameras]),
    }  # fmt: skip


class Scene:
    """The scene of one task of the suite; may be asked for any task that it allows."""

    def __init__(self, suite: suites.Suite, scene: int, data: Data):
        from libero.libero.envs import bddl_utils  # type: ignore[import-not-found]

        self.suite, self.number = suite, scene
        self.env = ScoredLiberoEnv(suite, scene, True, **settings(data))
        self.env._ensure_env()
        self.inner: Any = self.env._env.env  # type: ignore[union-attr]  # robosuite's
        self.inner.hard_reset = False  # the model of a scene stays as it is; rebuilding it takes seconds
        self.parse = bddl_utils.robosuite_parse_problem
        self.shape = LiberoProcessorStep()

    def begin(self, state: int) -> Any:
        """The observation at an initial state of the suite."""
        self.env.init_state_id = state
        return self.env.reset(seed=state)[0]

    def ask(self, task: int) -> str:
        """From now on the goal of that task is scored; its one object. The file's sentence is the task's."""
        path = self.suite.get_task_bddl_file_path(task)
        self.inner.parsed_problem["goal_state"] = self.parse(path)["goal_state"]
        (name,) = bddl.goal_names(bddl.text_of(scored.file_of(self.suite.tasks[task]))) - {"basket_1_contain_region"}
        return name

    def place(self, name: str) -> np.ndarray:
        """[3], where an object is."""
        return np.array(self.inner.sim.data.body_xpos[self.inner.obj_body_id[name]])

    def seen(self, obs: Any) -> tuple[np.ndarray, np.ndarray]:
        """What lerobot makes of an observation for a policy: images uint8 [C, P, P, 3], state [8]."""
        robot = obs["robot_state"]
        one = {"pixels": obs["pixels"], "robot_state": _first(robot)}
        found = self.shape.observation(preprocess_observation(one))
        images = [found[key][0].permute(1, 2, 0).numpy() * 255 for key in KEYS if key in found]
        return np.stack(images).round().astype(np.uint8), found["observation.state"][0].numpy()

    def record(self, demo: Demo, data: Data, attempt: int) -> Episode:
        """The expert's attempt, until the goal is met or it has done all it can."""
        began = time.process_time()
        name, (state, jitter) = self.ask(demo.wanted), demo.beginning(data, attempt)
        obs, done = self.begin(state), False
        expert = Expert(_pose(obs), self.place(name), self.place("basket_1"), name, jitter)
        images, states, actions = [], [], []
        while not (expert.over or done):
            image, now = self.seen(obs)
            action = expert.act(_pose(obs))
            images.append(image)
            states.append(now)
            actions.append(action)
            obs, _, done, _, _ = self.env.step(action)
        arrays = (np.stack(each) for each in (images, states, actions))
        return Episode(*arrays, success=bool(done), cpu=time.process_time() - began)

    def close(self) -> None:
        self.env.close()


def opened(scene: int, data: Data) -> Scene:
    """
    Raises:
        AptError: no LIBERO here.
    """
    return Scene(suites.of(SUITE), scene, data)


def _pose(obs: Any) -> tuple[np.ndarray, np.ndarray]:
    return obs["robot_state"]["eef"]["pos"], obs["robot_state"]["eef"]["quat"]


def _first(values: Any) -> Any:
    """A batch of one, as lerobot's vector environments stack it."""
    return {k: _first(v) for k, v in values.items()} if isinstance(values, dict) else np.asarray(values)[None]
