"""A setting so small that an arm trains in a second: what the comparison's tests share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from apt_compare.plan import read, shipped
from apt_compare.spec import Arm, Setting

if TYPE_CHECKING:
    from apt_compare.training import job

SIZES = {
    "vlm_width": 16, "vlm_mlp": 16, "expert_width": 16, "expert_mlp": 16, "depth": 2, "vision_width": 16,
    "vision_mlp": 16, "vision_depth": 1,
}  # fmt: skip
SMALL = Setting(
    "small",
    grounding={"language": "full", "steps": 2, "batch": 4, "scenes": 64, "probe": 32},
    sizes=SIZES,
    labelled=12,
    unlabelled=12,
    batch=4,
    steps=4,
    warmup=1,
    vlm_seeds=1,
    seeds=2,
    episodes=4,
)
SMALL_GROOT = dataclasses.replace(
    SMALL,
    name="small_groot",
    body="groot",
    sizes={
        "vlm_width": 32, "vlm_mlp": 32, "vlm_layers": 2, "vlm_heads": 2, "kv_heads": 1, "head_dim": 16,
        "vision_width": 16, "vision_mlp": 16, "vision_heads": 2, "dit_width": 32, "dit_heads": 2,
    },
)  # fmt: skip
CONFIGS = read(shipped())


def a_run(out, tmp_path, arm: Arm, **setting) -> job.Run:
    """A run of the small setting; `setting` changes some of it."""
    from apt_compare.training import job

    return job.Run(dataclasses.replace(SMALL, **setting), arm, 0, 3e-3, out, tmp_path / "run")
