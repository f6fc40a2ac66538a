"""Runs of the host's own script with and without a cache, in this process, and what must agree between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets

SAME = 1e-5  # of the loss: what the issue asks; here the bits agree


class Runs:
    """One family's runs of the host's own script, in this process."""

    def __init__(self, family: str, data: Path, tok: str, plain: dict[str, Path], groot: dict[str, Path], out: Path):
        self.family, self.data, self.tok, self.plain, self.groot, self.out = family, data, tok, plain, groot, out

    def flags(self, name: str, prior: Path | None = None, **more: str | int) -> list[str]:
        own = {"output_dir": self.out / name, "steps": 4, "save_freq": 2, **more}
        if self.family == "groot":
            dropped = ("--policy.sizes", "--policy.tokenizer", "--policy.image_resolution", "--policy.num_inference",
                       "--policy.scheduler_warmup")  # fmt: skip
            flags = [f for f in datasets.flags(self.data, self.tok, **own) if not f.startswith(dropped)]
            flags += ["--policy.use_bf16=false", f"--policy.base_model_path={self.groot['base']}"]
        else:
            flags = datasets.flags(self.data, self.tok, **own)
        if prior is not None:
            frozen = "--policy.recipe.vlm=frozen"  # the default follows the host, whose pi trains its VLM
            return [f"--policy.path={prior}", "--policy.stage=2", frozen, *(f for f in flags if "base_model" not in f)]
        start = [f"--policy.type={self.family}_apt", "--policy.stage=1"]
        return (
            start + flags + ([f"--policy.pretrained_path={self.plain[self.family]}"] if self.family != "groot" else [])
        )

    def train(self, name: str, *flags: str, **kwargs) -> Path:
        datasets.lerobot_train(*self.flags(name, **kwargs), *flags)
        return self.out / name / "checkpoints"

    def cache(self, mode: str, *flags: str, **kwargs) -> None:
        datasets.cache_program(mode, *self.flags("never", **kwargs), *flags)


def model(checkpoints: Path, step: str = "last") -> Path:
    return checkpoints / step / "pretrained_model"


def same(a: Path, b: Path) -> None:
    """Loss curves within 1e-5 (training, held-out, blanked), and whole checkpoints."""
    one, two = (read_record(model(checkpoints)) for checkpoints in (a, b))
    for name in ("loss", "eval_loss", "blank_gap", "blank_gap_train"):
        x, y = (record.curve.points(name)[1] for record in (one, two))
        np.testing.assert_allclose(x, y, atol=SAME, rtol=0, err_msg=name)
    assert len(one.curve.points("loss")[1]) == 4
    assert (one.vlm, one.vlm_start, one.layout) == (two.vlm, two.vlm_start, two.layout)
    first, second = (load_file(model(checkpoints) / "model.safetensors") for checkpoints in (a, b))
    assert first.keys() == second.keys()
    assert max(float((first[n].double() - second[n].double()).abs().max()) for n in first) < SAME
