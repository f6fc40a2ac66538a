"""Stage 2 with a VLM that trains, on both trainers, in one process that stands for many (see cached_runs).

python -m tests.hosts.openpi.retained_runs ROOT all         both stages, one JSON line
python -m tests.hosts.openpi.retained_runs ROOT split DIR   Stage 2 on all devices, FSDP, from Stage 1 in DIR
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from apt_plugin.stages import read_record
from tests.hosts.openpi.cached_runs import go, last

STEPS = 4
SCRIPTS = ("train.py", "train_pytorch.py")
FAST = ("--lr-schedule.peak-lr=0.02", "--lr-schedule.warmup-steps=1", "--batch-size=8")


def second(exp: str, prior: Path, *flags: str, **more: Any) -> tuple[Path, dict[str, Any]]:
    more = {"vlm": "full", "vlm_lr_scale": 1.0, "gap_every": 2, "steps": STEPS} | more
    run = go("train", 2, exp, *FAST, *flags, prior=prior, **more)
    record = read_record(last(run) / "assets")
    curve = record.curve.points("retention") if "retention" in record.curve.sums else ([], [])
    return run, {"steps": list(map(float, curve[0])), "values": list(map(float, curve[1])), "done": record.steps}


def everything(root: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for script in SCRIPTS:
        prior = go("train", 1, script[:-3], *FAST, steps=1, script=script)
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(root / script)}
        (root / script).mkdir()
        _, full = second(f"full_{script[:-3]}", prior, "--wandb-enabled", script=script)
        os.environ["WANDB_MODE"] = "disabled"
        _, frozen = second(f"frozen_{script[:-3]}", prior, script=script, vlm="frozen", steps=1)
        out[script] = {"prior": str(prior), "full": full, "frozen": frozen}
    prior = Path(out["train.py"]["prior"])
    out["resumed"] = second("full_train", prior, "--resume", steps=STEPS + 3)[1]
    return out


if __name__ == "__main__":
    place, word, *rest = sys.argv[1:]
    found = everything(Path(place)) if word == "all" else second("split", Path(rest[0]), "--fsdp-devices=2")[1]
    print("RESULT " + json.dumps(found), flush=True)
