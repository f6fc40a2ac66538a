"""The tabletop as a gymnasium environment, in the form lerobot's evaluation expects.

Observation: `{"pixels": {"top": uint8 (P, P, 3)}, "agent_pos": float32 (3,)}`; action float32 (3,): x, y,
opening, absolute, in [0, 1]. An episode always lasts `arm.HORIZON` steps for each object named; only the last one
can be a success.
`reset(seed=k)` starts episode `k` of the split, so `lerobot-eval --seed=0 --eval.n_episodes=50` runs exactly
the first fifty of `World.tests(split, ...)`.
"""

import warnings
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from apt_plugin.tabletop import arm
from apt_plugin.tabletop.data import FPS
from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.words import parse
from apt_plugin.tabletop.world import SPLITS, Episodes, World


class TabletopEnv(gym.Env):
    """One episode at a time of one split.

    Args:
        split: a name of `world.SPLITS`, or "train" for episodes of the training distribution.
        world: the world's knobs.
        episode_seed: which set of episodes of the split.
        instruction: what to tell the policy instead of the episode's own instruction. "grasp the red cube" is
            judged as told, and never succeeds where no red cube is in view; "" tells nothing and judges by
            the episode's own. Other words (`words.parse`) and two objects "... and the blue ring" are judged, too.
        pool: number of distinct episodes; `reset(seed=k)` gives number `k % pool`.
    """

    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": FPS}
    _max_episode_steps = arm.HORIZON  # of a single object; an instance of split "chained" has two

    def __init__(
        self,
        split: str = "seen",
        world: World | None = None,
        episode_seed: int = 0,
        instruction: str | None = None,
        pool: int = 1024,
        render_mode: str = "rgb_array",
    ):
        world = world or World()
        if split == "train" and world.chained:
            raise ValueError(
                "split 'train' of a world with chained demonstrations has episodes of two lengths, which lerobot's "
                "vector environments do not know; use split 'seen' or 'chained'."
            )
        self.render_mode = render_mode
        self._told = instruction
        self._legs = 2 if split in SPLITS and SPLITS[split].chained else 1
        self._max_episode_steps = arm.HORIZON * self._legs
        self._command = parse(instruction) if instruction else None
        if self._command and (self._command[0] not in world.verbs or len(self._command[1]) != self._legs):
            self._command = None
        if instruction and self._command is None:
            form = f"<{'|'.join(world.verbs)}> the <colour> <shape>{' and the <colour> <shape>' * (self._legs - 1)}"
            warnings.warn(
                f"instruction {instruction!r} is outside the world's language ('{form}', or synonyms): the policy "
                "is told it, but no outcome counts as a success.",
                stacklevel=2,
            )
        self._episodes = (
            world.training(pool, episode_seed) if split == "train" else world.tests(split, pool, episode_seed)
        )
        self._next = 0
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Dict({"top": gym.spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)}),
                "agent_pos": gym.spaces.Box(0.0, 1.0, (3,), np.float32),
            }
        )
        self.action_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
        self._begin(0)

    def _begin(self, number: int) -> None:
        self._episode: Episodes = self._episodes[number % len(self._episodes)]
        self._state, self._time, self._ends = self._episode.start, 0, []
        self._own = self._episode.instructions()[0]
        self._judgeable = True
        if self._told:
            self._judgeable = self._command is not None and self._obey(*self._command)

    def _obey(self, verb: str, pairs: list[tuple[int, int]]) -> bool:
        """Name the told objects instead of the episode's own; False if one is not in view."""
        slots = [np.flatnonzero((self._episode.pairs[0] == pair).all(axis=1)) for pair in pairs]
        if not all(len(slot) for slot in slots):
            return False
        named, then = slots[0][:1], (slots[1][:1] if len(slots) == 2 else np.array([-1]))
        verbs = np.array([self._episode.verbs.index(verb)])
        self._episode = replace(self._episode, named=named, then=then, verb=verbs)
        return True

    @property
    def task_description(self) -> str:
        """The instruction the policy is told; lerobot reads it at every step."""
        return self._own if self._told is None else self._told

    @property
    def task(self) -> str:
        """The same; lerobot's fall-back name."""
        return self.task_description

    def _observation(self) -> dict[str, Any]:
        return {"pixels": {"top": self.render()}, "agent_pos": self._state[0].copy()}

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start episode number `seed`, or the next one."""
        super().reset(seed=seed)
        number = self._next if seed is None else seed
        self._next = number + 1
        self._begin(number)
        return self._observation(), {"is_success": False}

    def step(self, action: np.ndarray):
        """Gymnasium's five values; `info["is_success"]` and the reward are about the last step of the
        episode."""
        self._state = arm.step(self._state, np.asarray(action, dtype=np.float32)[None])
        self._time += 1
        if self._time % arm.HORIZON == 0:
            self._ends.append(self._state)
        done = self._time >= self._max_episode_steps
        success, where = False, "none"
        if done:
            outcome = self._episode.outcome(np.stack(self._ends[: self._legs], axis=1))
            success, where = bool(self._judgeable and outcome["success"][0]), str(outcome["where"][0])
        return self._observation(), float(success), done, False, {"is_success": success, "where": where}

    def render(self) -> np.ndarray:
        """The camera image, uint8 (P, P, 3)."""
        return self._episode.render(self._state)[0]
