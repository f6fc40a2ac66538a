"""What the plugin of today makes of an archive of c5d143f, in one process: python -m tests.hosts.openpi.legacy_runs

One JSON line; the working directory is the unpacked archive (see tests/legacy/make_openpi.py for the environment)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.stages import read_record
from tests.legacy import archive
from tests.legacy import make_openpi as legacy

FIRST, SECOND = Path("checkpoints/tiny_pi05_apt1"), Path("checkpoints/tiny_pi05_apt2")
FOLDERS = {
    "jax1": FIRST / "jax/1", "jax2": SECOND / "jax/1", "cached1": FIRST / "cached/1",
    "torch1": FIRST / "torch/2", "torch2": SECOND / "torch/2",
}  # fmt: skip
CACHED = {"cache": "cache", "cache_kind": "kv", "cache_views": 0}


def told(folder: Path) -> dict[str, Any]:
    record = read_record(folder / "assets")
    losses = list(map(float, record.curve.points("loss")[1]))
    return {"steps": record.steps, "stage": record.stage, "losses": losses, "vlm": record.vlm,
            "vlm_start": record.vlm_start, "layout": record.layout, "stage1": record.stage1}  # fmt: skip


def tried(do: Any) -> Any:
    """What it returns, or the refusal's words: one failure leaves the other answers."""
    try:
        return do()
    except (AptError, AssertionError, SystemExit) as error:
        return f"refused: {error}"


def everything() -> dict[str, Any]:
    out: dict[str, Any] = {"actions": {}, "records": {}}
    for name, folder in FOLDERS.items():
        expected = np.load(folder / "expected.npy")
        apart = tried(lambda folder=folder, expected=expected: float(np.abs(legacy.act(folder) - expected).max()))
        out["actions"][name] = [apart, float(np.abs(expected[0] - expected[1]).max())]
        out["records"][name] = told(folder)
    out["proved"] = {name: tried(lambda f=folder: archive.apt_plugin("prove", f)) for name, folder in FOLDERS.items()
                     if name in ("jax1", "jax2", "torch1")}  # fmt: skip
    legacy.install()
    start = {"jax": ("train.py", FOLDERS["jax1"]), "torch": ("train_pytorch.py", FOLDERS["torch1"])}
    for kind, (script, prior) in start.items():
        out[f"new_{kind}2"] = tried(lambda s=script, p=prior, k=kind: told(legacy.train(s, 2, f"new_{k}", prior=p)))
    out["verified"] = tried(lambda: str(legacy.train("train.py", 1, "never", do="verify", **CACHED)))
    out["new_cached1"] = tried(lambda: told(legacy.train("train.py", 1, "new_cached", **CACHED)))
    out["resumed"] = tried(lambda: told(legacy.train(
        "train.py", 2, "jax", "--resume", prior=FOLDERS["jax1"], steps=4)))  # fmt: skip
    return out


if __name__ == "__main__":
    print("RESULT " + json.dumps(everything()))
