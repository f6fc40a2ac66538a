"""Batched rollouts of a lerobot policy directory over the splits, in this process.

The policy acts through lerobot's own `select_action` and its saved processors, as in `lerobot-eval`, on the
same episodes (episode `k` here is `lerobot-eval --seed=k` there); batched drawing makes it a few hundred
times faster, and it also says *where* a policy went when it did not succeed.

Shape legend: `B` episodes of a batch.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from apt_plugin.errors import AptError
from apt_plugin.report import wilson
from apt_plugin.tabletop import arm
from apt_plugin.tabletop.data import CAMERA
from apt_plugin.tabletop.episodes import CHAINED_WHERE, WHERE
from apt_plugin.tabletop.world import SPLITS, Episodes, World

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitResult:
    """One split: `success` bool (episodes,), `where` str (episodes,) of `episodes.WHERE` (`CHAINED_WHERE` for two
    legs), `instructions` as told, `frames` of the first episodes, uint8 (kept, T + 1, P, P, 3), T control steps."""

    split: str
    success: np.ndarray
    where: np.ndarray
    instructions: list[str]
    frames: np.ndarray = field(repr=False)

    @property
    def rate(self) -> float:
        """Share of successful episodes."""
        return float(self.success.mean())

    @property
    def counts(self) -> tuple[int, int]:
        """(successes, episodes)."""
        return int(self.success.sum()), len(self.success)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 %."""
        return wilson(*self.counts)

    def summary(self) -> dict:
        """For a report: plain numbers only."""
        ends = CHAINED_WHERE if SPLITS[self.split].chained else WHERE
        return {
            "split": self.split,
            "successes": self.counts[0],
            "episodes": self.counts[1],
            "success": self.rate,
            "interval": list(self.interval),
            "reached": {where: float((self.where == where).mean()) for where in ends},
        }

    def __str__(self) -> str:
        low, high = self.interval
        went = ", ".join(f"{where} {100 * share:.0f}" for where, share in self.summary()["reached"].items())
        share = f"{100 * self.rate:5.1f} %  [{100 * low:.0f}, {100 * high:.0f}]"
        return f"{self.split:12s} {share}   reached: {went}"


@dataclass
class Actor:
    """A policy with its processors; `act` takes raw observations and gives raw actions."""

    policy: Any
    preprocessor: Any
    postprocessor: Any

    @classmethod
    def load(cls, directory: Path | str, device: str = "cpu") -> "Actor":
        """Load any lerobot policy directory whose type is registered: `pi05_tiny` and installed
        `lerobot_policy_*` packages are.

        Raises:
            AptError: no checkpoint there, or one for another robot.
        """
        import apt_plugin.tabletop.host.configuration_pi05_tiny  # noqa: F401  # registers the type
        from apt_plugin.hosts.lerobot.opening import open_policy

        opened = open_policy(directory, device)
        check_robot(opened.preprocessor, directory)
        return cls(opened.policy, opened.preprocessor, opened.postprocessor)

    def reset(self) -> None:
        """Forget the queued actions of the last episodes."""
        self.policy.reset()

    def act(self, images: np.ndarray, state: np.ndarray, tasks: list[str]) -> np.ndarray:
        """images uint8 (B, P, P, 3), state float32 (B, 3), tasks of length B -> action float32 (B, 3)."""
        import torch

        batch = {
            CAMERA: torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
            "observation.state": torch.from_numpy(state),
            "task": list(tasks),
        }
        with torch.inference_mode():
            return self.postprocessor(self.policy.select_action(self.preprocessor(batch))).cpu().numpy()


def check_robot(preprocessor: Any, directory: Path | str) -> None:
    """
    Raises:
        AptError: a policy whose statistics are of another robot's states or actions.
    """
    widths = {
        key: np.shape(told["mean"])[-1]
        for step in preprocessor.steps
        for key, told in (getattr(step, "stats", None) or {}).items()
        if key in ("observation.state", "action") and np.ndim(told.get("mean"))
    }
    if wrong := [f"{key} of {width} numbers" for key, width in widths.items() if width != arm.WIDTH]:
        raise AptError(
            f"{directory} was trained on {' and '.join(wrong)}; the tabletop's have {arm.WIDTH}. Name a policy that "
            "was trained on what `apt-plugin tabletop data` writes."
        )


def play(actor, episodes: Episodes, told: Sequence[str] | None = None, keep: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Run one batch of episodes to their end. A second leg follows without a reset and under the same words: a
    policy that acts in chunks of `arm.HORIZON` steps plans anew from where the first one left the gripper.

    Args:
        actor: anything with `reset()` and `act(images, state, tasks)`.
        told: what to tell the policy instead of the instructions; outcomes are still judged by the
            instructions.

    Returns:
        states at the end of the episode, float32 (B, 3), or of each of two legs, (B, 2, 3), as `Episodes.outcome`
        takes them; frames uint8 (keep, T + 1, P, P, 3), T = legs * HORIZON.
    """
    tasks = list(told) if told is not None else episodes.instructions()
    actor.reset()
    state, film, ends = episodes.start, [], []
    for _ in range(episodes.legs):
        for _ in range(arm.HORIZON):
            images = episodes.render(state)
            film.append(images[:keep])
            state = arm.step(state, actor.act(images, state, tasks))
        ends.append(state)
    film.append(episodes[:keep].render(state[:keep]) if keep else film[-1])
    return (state if len(ends) == 1 else np.stack(ends, axis=1)), np.stack(film, axis=1)


def evaluate(
    policy: Path | str | Actor,
    world: World,
    splits: Sequence[str] = tuple(SPLITS),
    episodes: int = 200,
    seed: int = 0,
    batch: int = 100,
    keep_frames: int = 4,
    told: str | None = None,
    progress: bool = True,
) -> dict[str, SplitResult]:
    """Success on each split.

    Args:
        policy: a lerobot policy directory (`.../pretrained_model`), or an `Actor`.
        seed: which set of episodes, and the seed of the policy's sampling noise.
        told: tell this instead of every instruction, for example "" (how far does the image alone carry?).
    """
    import torch

    actor: Any = Actor.load(policy) if isinstance(policy, str | Path) else policy
    results = {}
    with Progress(disable=not progress) as bar:
        task = bar.add_task("Rollouts", total=len(splits) * episodes)
        for split in splits:
            torch.manual_seed(seed)
            every = world.tests(split, episodes, seed)
            success, where, frames = [], [], []
            for first in range(0, episodes, batch):
                some = every[first : first + batch]
                keep = min(len(some), max(0, keep_frames - first))
                words = None if told is None else [told] * len(some)
                state, film = play(actor, some, words, keep)
                outcome = some.outcome(state)
                success.append(outcome["success"])
                where.append(outcome["where"])
                frames.append(film)
                bar.advance(task, len(some))
            results[split] = SplitResult(
                split,
                np.concatenate(success),
                np.concatenate(where),
                every.instructions() if told is None else [told] * episodes,
                np.concatenate(frames),
            )
            logger.info("%s", results[split])
    return results
