"""The demo's numbers: what it trains, for how long, and on how much.

Costs in comments are measured CPU seconds of one thread on a 2-core machine; on free cores wall time is about
the same.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from apt_plugin.tabletop.grounding import Grounding
from apt_plugin.tabletop.world import World

# The stock arms beside APT.
EQUAL_STEPS, EQUAL_TIME = "stock expert-only, equal steps", "stock expert-only, equal time"
FULL_STOCK = "stock full, equal steps"

# The demo's VLM is grounded in the plain language and its layouts are random, so the world's other splits would test
# words that it has never read, or nothing.
DEMO_SPLITS = ("seen", "rare", "task", "combination", "environment")


@dataclass(frozen=True)
class Demo:
    """A run of the demo: data, grounding, Stage 1, Stage 2, stock policies, rollouts.

    `lr_*` are peak rates of lerobot's AdamW with cosine decay over the run's own steps.
    """

    world: World = field(default_factory=World)
    grounding: Grounding = field(default_factory=Grounding)  # 90 s
    # Demonstrations with an instruction, two frames each; 0.022 s each to write. With 500, stock expert-only training
    # reaches 92 % or more on every split, so nothing is left to compare; 300 leave room (53 to 88 %).
    labelled: int = 300
    unlabelled: int = 1500  # vision-action pairs, task ""
    batch: int = 32
    # A tenth for Stage 1: it followed 48 of a hundred unseen instructions, a quarter of the steps 40, half 30 (5 seeds
    # each: apt_tenth_prior and apt_short_prior in examples/compare).
    stage1_steps: int = 120
    stage2_steps: int = 1080
    stock_steps: int = 1200  # stage1_steps + stage2_steps: "equal steps"
    warmup: int = 50
    lr_expert: float = 3e-3  # VLM frozen
    lr_full: float = 1.5e-3  # everything trained
    # Reading a batch costs about half as much as a training step on it. A worker hides that on a third core; with two
    # trainings on two cores it only adds its own start (the host spawns, and each worker imports lerobot anew).
    workers: int = 0
    rollouts: int = 200  # episodes a split

    def train_flags(self, steps: int, lr: float, seed: int = 0) -> list[str]:
        """Flags of lerobot-train that every run of the demo shares."""
        flags = [
            f"--steps={steps}",
            f"--batch_size={self.batch}",
            f"--num_workers={self.workers}",
            f"--policy.optimizer_lr={lr}",
            f"--policy.scheduler_decay_lr={lr / 50}",
            f"--policy.scheduler_warmup_steps={self.warmup}",
            f"--policy.scheduler_decay_steps={steps}",
            f"--save_freq={steps}",
            f"--log_freq={max(1, steps // 20)}",
            f"--seed={seed}",
        ]
        if self.workers and sys.platform == "linux":
            flags.append("--dataloader_multiprocessing_context=fork")
        return flags


FULL = Demo()
QUICK = Demo(
    grounding=Grounding(steps=700),
    labelled=200,
    unlabelled=300,
    stage1_steps=60,  # a tenth would end within the warm-up of the rate
    stage2_steps=190,
    stock_steps=250,
    rollouts=40,
)
