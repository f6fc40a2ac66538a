"""lerobot's LIBERO environment on a suite of ours: its own simulator, cameras, states and scoring; other sentences."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from lerobot.envs.libero import LiberoEnv
from lerobot.envs.utils import FreezeAfterEpisodeEnd, _LazyAsyncVectorEnv

from apt_plugin.errors import AptError
from apt_plugin.libero import suites, watch


class ScoredLiberoEnv(LiberoEnv):
    """One task. The host reads initial states as pickles only; LIBERO's own function reads all that it ships."""

    def __init__(self, suite: suites.Suite, task_id: int, init_states: bool, reached: Path | None = None, **more: Any):
        super().__init__(suite, task_id, suites.base_of(suite.name), init_states=False, **more)
        self.reached, self._asked = reached, watch.asked(suite, task_id) if reached else None
        if init_states:
            self.init_states, self._init_states = True, suite.get_task_init_states(task_id)

    def _ensure_env(self) -> None:
        """LIBERO renders two cameras whatever it is asked for, which without a GPU is most of a step's time."""
        new = self._env is None
        super()._ensure_env()
        if new and self._env is not None:
            unread = {"agentview_image", "robot0_eye_in_hand_image"} - set(self.camera_name)
            for camera in unread:
                self._env.env._observables[camera].set_enabled(False)
            if self.reached is not None and self._asked is not None:
                watch.Watch(self._env, self._asked, self.reached)


def create(config: Any, n_envs: int, in_processes: bool) -> dict[str, dict[int, Any]]:
    """{suite: {task: a vector environment of `n_envs`}}, as lerobot's own `create_envs` gives them.

    Raises:
        AptError: see `suites.of`; a task that the suite does not have; soft resets; a negative wait.
    """
    if not config.hard_reset:
        raise AptError(
            "--env.hard_reset=false is lerobot's own environment only: leave it out, or use --env.type=libero."
        )
    if config.num_steps_wait < 0:
        raise AptError(f"--env.num_steps_wait is {config.num_steps_wait}; write 0 or more.")
    kwargs = dict(config.gym_kwargs)
    wanted = kwargs.pop("task_ids", None)
    reached = watch.checked(config.reached, "--env.reached") if config.reached else None
    out: dict[str, dict[int, Any]] = {}
    for name in (part.strip() for part in str(config.task).split(",")):
        suite = suites.of(name)
        if wrong := [task for task in wanted or () if not 0 <= task < suite.n_tasks]:
            raise AptError(f"--env.task_ids has {wrong[0]}, and {name} has tasks 0 to {suite.n_tasks - 1}.")
        out[name] = {
            task: _vector(
                [partial(
                    ScoredLiberoEnv, suite, task, config.init_states, episode_index=place, n_envs=n_envs,
                    camera_name=config.camera_name, camera_name_mapping=config.camera_name_mapping,
                    control_mode=config.control_mode, episode_length=config.episode_length, reached=reached,
                    num_steps_wait=config.num_steps_wait, **kwargs,
                ) for place in range(n_envs)], in_processes,
            )
            for task in (range(suite.n_tasks) if wanted is None else wanted)
        }  # fmt: skip
    return out


def _vector(makers: list[Any], in_processes: bool) -> Any:
    if in_processes and len(makers) > 1:
        return _LazyAsyncVectorEnv(makers)  # the processes of a task begin with it: a suite may have 90
    # lerobot counts one episode of each in a batch, and would go on with those that are done until the last one is.
    makers = [partial(_frozen, maker) for maker in makers]
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP)


def _frozen(maker: Any) -> gym.Env:
    return FreezeAfterEpisodeEnd(maker())
