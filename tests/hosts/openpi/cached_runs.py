"""Runs with and without a feature cache, in one process that stands for many (importing openpi takes longer than they).

    python -m tests.hosts.openpi.cached_runs ROOT all        everything below, one JSON line
    python -m tests.hosts.openpi.cached_runs ROOT build DIR  one builder
    python -m tests.hosts.openpi.cached_runs ROOT train DIR  Stage 1 from that cache on all devices, FSDP

Each run is the host's own `main` on flags that openpi parses, as the launcher starts it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import openpi
from openpi.models import model as _model

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import __main__ as child
from apt_plugin.hosts.openpi import training
from apt_plugin.recipe import from_flat
from apt_plugin.stages import read_record
from tests.hosts.openpi import preload

SCRIPTS = Path(openpi.__file__).parents[2] / "scripts"
STEPS = 3


def go(
    do: str, stage: int, exp: str, *flags: str, steps: int = STEPS, prior: Path | None = None,
    script: str = "train.py", **recipe: Any,
) -> Path:  # fmt: skip
    """One job; the folder of its run."""
    from dataclasses import asdict

    chosen = {"noise_draws": 2, "gap_every": 1, "vlm": "frozen"}
    made = from_flat(chosen | {name.replace("__", "."): v for name, v in recipe.items()})
    sys.argv = [script, "tiny_pi0", f"--exp-name={exp}", f"--num-train-steps={steps}", *flags]
    job = {"do": do, "stage": stage, "recipe": asdict(made), "prior": None if prior is None else str(prior)}
    try:
        (child.train if do == "train" else child.cache)(SCRIPTS / script, job)
    finally:
        training.REPLACED.restore()
    return preload.ROOT / "checkpoints" / f"tiny_pi0_apt{stage}" / exp


def last(run: Path) -> Path:
    """The newest checkpoint of a run."""
    return max((path for path in run.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def told(run: Path) -> dict[str, Any]:
    record = read_record(last(run) / "assets")
    names = ("loss", "blank_gap_train", "gate_mean")
    curves = {n: list(map(float, record.curve.points(n)[1])) for n in names if n in record.curve.sums}
    return {"curves": curves, "vlm": record.vlm, "layout": record.layout, "steps": record.steps}


def refusal(do: str, stage: int, *flags: str, **more: Any) -> str:
    try:
        go(do, stage, "no", "--overwrite", *flags, **more)
    except AptError as error:
        return str(error)
    return ""


def everything(root: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    first = go("train", 1, "plain")
    out["plain"] = [told(first), told(go("train", 2, "plain", prior=first))]
    kv = {"cache": str(root / "kv"), "cache_kind": "kv", "cache_views": 0}
    go("build", 1, "kv", **kv)
    cached = go("train", 1, "kv", **kv)
    go("build", 2, "kv", prior=cached, **kv)
    out["kv"] = [told(cached), told(go("train", 2, "kv", prior=cached, **kv))]
    go("verify", 2, "kv", prior=cached, **kv)
    go("train", 1, "again", "--save-interval=1", steps=2, **kv)
    out["resumed"] = told(go("train", 1, "again", "--resume", **kv))
    vision = {"cache": str(root / "vision"), "cache_kind": "vision", "cache_views": 0}
    go("build", 1, "vision", **vision)
    out["vision"] = told(go("train", 1, "vision", **vision))
    still, _model.preprocess_observation = _model.preprocess_observation, preload.host_preprocess  # augmentation on
    for name in ("views", "views_again"):
        go("build", 1, name, cache=str(root / name), cache_kind="kv", cache_views=2)
    _model.preprocess_observation = still
    out["from_views"] = told(go("train", 1, "views", cache=str(root / "views"), cache_kind="kv", cache_views=2))
    out["refused"] = {
        "augmentation": refusal("train", 1, **kv | {"cache_views": 2}),
        "nobody chose": refusal("build", 1, **kv | {"cache_views": -1}),
        "kind": refusal("train", 1, **kv | {"cache_kind": "vision"}),
        "stage": refusal("train", 2, prior=cached, cache=str(root / "vision"), cache_kind="kv", cache_views=0),
        "transform": refusal("train", 1, "--model.max-token-len=160", **kv),
    }
    load = preload.Opened.load
    preload.Opened.load = lambda self, params: jax.tree.map(
        lambda leaf: (leaf * 1.5).astype(leaf.dtype), load(self, params)
    )
    out["refused"]["encoder"] = refusal("train", 1, **kv)
    preload.Opened.load = load
    return out


if __name__ == "__main__":
    place, what = Path(sys.argv[1]), sys.argv[2]
    if what == "all":
        print("RESULT " + json.dumps(everything(place)))
    elif what == "build":
        go("build", 1, "two", "--batch-size=4", cache=sys.argv[3], cache_kind="kv", cache_views=0)
    else:
        count = jax.device_count()
        flags = (f"--fsdp-devices={count}", "--batch-size=4")
        run = go("train", 1, f"on{count}", *flags, cache=sys.argv[3], cache_kind="kv", cache_views=0)
        print("RESULT " + json.dumps(told(run) | {"devices": count}))
