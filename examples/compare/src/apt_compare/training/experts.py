"""An action expert that comes trained on another mixture of tasks, as those of pi05_base, GR00T and smolvla_base do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from apt_compare.spec import Arm, content, digest
from apt_compare.training import policies
from apt_compare.training.clock import claimed
from apt_compare.training.pools import every, joined, process
from apt_compare.training.trainer import Rate, Trainer
from apt_plugin.tabletop.world import Episodes, World

DEMONSTRATIONS = 2000
ELSEWHERE = 1000  # added to a world's seed: other objects in company, other usual targets


def mixture(world: World, count: int, seed: int) -> Episodes:
    """Labelled demonstrations of another world, without those about a pair that this one never names: the expert must
    not have met what `combination` asks."""
    drawn = dataclasses.replace(world, seed=world.seed + ELSEWHERE).training(4 * count, seed + 2000)
    about = drawn.pairs[np.arange(len(drawn)), drawn.named]
    kept = [row for row, pair in enumerate(about) if (int(pair[0]), int(pair[1])) not in world.never_named]
    return drawn[np.array(kept[:count])]


def practised(run: Any) -> Path:
    """A stock checkpoint like `run.start`, its expert trained on `mixture` with the VLM frozen; one for all arms.

    Args:
        run: `job.Run` of a π0.5 setting.
    """
    setting = run.setting
    folder = run.out / "experts" / digest([content(setting), run.seed, run.base.name])
    with claimed(folder):
        if not (folder / "config.json").is_file():  # written last
            body = policies.stock(run.start, Arm("practice"))
            count = min(DEMONSTRATIONS, 10 * setting.labelled)
            frames = joined(every(mixture(run.world, count, run.seed), True), ())
            pool = process(body, run.processors(body)[0], frames, len(frames))
            pool.prefixes = body.store(pool)
            rate = Rate(setting.lr_expert, setting.steps, setting.warmup)
            Trainer(body, pool, Arm("practice"), rate, setting.batch, run.seed).run(setting.steps)
            policies.keep(body.policy, setting, run.base, folder)
    return folder
