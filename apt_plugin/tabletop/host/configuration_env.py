"""lerobot's `--env.type=tabletop`."""

from dataclasses import dataclass, field

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from apt_plugin.tabletop import arm
from apt_plugin.tabletop.data import CAMERA, FPS
from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.env import TabletopEnv
from apt_plugin.tabletop.world import SPLITS, World


@EnvConfig.register_subclass("tabletop")
@dataclass
class TabletopEnvConfig(EnvConfig):
    """One split of the tabletop world.

    Args:
        task: unused by the tabletop; lerobot's own field.
        split: which split (`--env.split=rare`), or "train".
        instruction: tell the policy this instead (`--env.instruction="reach the blue ring"`); see
        `env.TabletopEnv`.
        episode_seed: which set of episodes.
        world: the knobs the data were written with (`--env.world.usual_share=0.9`).
    """

    fps: int = FPS
    split: str = "seen"
    instruction: str | None = None
    episode_seed: int = 0
    world: World = field(default_factory=World)
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=(3,)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(3,)),
            "pixels/top": PolicyFeature(type=FeatureType.VISUAL, shape=(IMAGE_SIZE, IMAGE_SIZE, 3)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {"action": "action", "agent_pos": "observation.state", "pixels/top": CAMERA}
    )

    def __post_init__(self):
        if self.split != "train" and self.split not in SPLITS:
            raise ValueError(f"--env.split={self.split}: no such split; use one of {', '.join(SPLITS)}, train.")

    @property
    def gym_kwargs(self) -> dict:
        """Arguments of `TabletopEnv`."""
        return {
            "split": self.split,
            "world": self.world,
            "episode_seed": self.episode_seed,
            "instruction": self.instruction,
        }

    @property
    def episode_length(self) -> int:
        """Control steps in an episode."""
        chained = self.split in SPLITS and SPLITS[self.split].chained
        return arm.HORIZON * (2 if chained else 1)

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """`{"tabletop": {0: vector environment}}`; always in this process, drawing costs less than passing
        messages."""
        kwargs = self.gym_kwargs
        make = [lambda: TabletopEnv(**kwargs) for _ in range(n_envs)]
        return {self.type: {0: gym.vector.SyncVectorEnv(make, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)}}
