"""lerobot's `--env.type=libero_scored`: its own LIBERO environment, where the policy is told what is scored."""

from dataclasses import dataclass
from typing import Any

from lerobot.envs.configs import EnvConfig, LiberoEnv


@EnvConfig.register_subclass("libero_scored")
@dataclass
class ScoredLiberoConfig(LiberoEnv):
    """lerobot's `libero`, with the same flags.

    Args:
        task: suites of the installed LIBERO or LIBERO-PRO, separated by commas. `<suite>_counterfactual` is every scene
        of a suite with each other task of it that the scene allows.
        reached: a file to which each episode adds a line of JSON: its task, whether it succeeded, and which object the
        arm went for (a score for policies that do not grasp yet).
        num_steps_wait: decisions without a motion before the first one of the policy; lerobot's own environment has 10.
        A policy that reads its own state as text is best asked from where its demonstrations began.
    """

    reached: str | None = None
    num_steps_wait: int = 10

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, Any]]:
        from apt_plugin.libero import gym_env

        return gym_env.create(self, n_envs, use_async_envs)
