"""Stage 2 with a VLM that trains, on either trainer, in one process that stands for many (see cached_runs).

python -m tests.hosts.openpi.retained_runs ROOT all         both stages, one JSON line
python -m tests.hosts.openpi.retained_runs ROOT split DIR   Stage 2 on all devices, FSDP, from Stage 1 in DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import wandb

from apt_plugin.stages import read_record
from tests.hosts.openpi.cached_runs import go, last

STEPS = 4
FAST = ("--lr-schedule.peak-lr=0.02", "--lr-schedule.warmup-steps=1", "--batch-size=8")


def second(exp: str, prior: Path, *flags: str, **more: Any) -> tuple[Path, dict[str, Any]]:
    more = {"vlm": "full", "vlm_lr_scale": 1.0, "gap_every": 2, "steps": STEPS} | more
    run = go("train", 2, exp, *FAST, *flags, prior=prior, **more)
    record = read_record(last(run) / "assets")
    curve = record.curve.points("retention") if "retention" in record.curve.sums else ([], [])
    return run, {"steps": list(map(float, curve[0])), "values": list(map(float, curve[1])), "done": record.steps}


def everything(script: str) -> dict[str, Any]:
    prior = go("train", 1, script[:-3], *FAST, steps=1, script=script)
    _, full = second(f"full_{script[:-3]}", prior, "--wandb-enabled", script=script)
    wandb.finish()  # train.py leaves its run open, and the next one would write into it
    _, frozen = second(f"frozen_{script[:-3]}", prior, script=script, vlm="frozen", steps=1)
    out: dict[str, Any] = {"prior": str(prior), "full": full, "frozen": frozen}
    if script == "train.py":
        out["resumed"] = second("full_train", prior, "--resume", steps=STEPS + 3)[1]
    return out


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    found = second("split", Path(rest[0]), "--fsdp-devices=2")[1] if what == "split" else everything(what)
    print("RESULT " + json.dumps(found), flush=True)
