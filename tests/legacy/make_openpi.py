"""openpi: both stages of the JAX and of the PyTorch trainer, and a feature cache. Set as tests/hosts/openpi does:
APT_PRELOAD=tests.hosts.openpi.preload APT_TEST_ROOT=. APT_TEST_FRAMES=1 HF_LEROBOT_HOME=data."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import openpi
from flax import traverse_util
from openpi.models import gemma
from openpi.models_pytorch import gemma_pytorch

from apt_plugin.hosts.openpi import __main__ as child
from apt_plugin.hosts.openpi import training
from apt_plugin.recipe import from_flat
from tests.hosts.openpi import frames, preload

SCRIPTS = Path(openpi.__file__).parents[2] / "scripts"
load, variants = preload.Opened.load, gemma.get_config


def smaller(variant: str) -> gemma.Config:
    """Two layers, and 8 x 4 is the width: the host's converter to PyTorch reshapes o_proj as if it were square."""
    return dataclasses.replace(variants(variant), width=32, depth=2, mlp_dim=32, head_dim=4)


def sparse(config: Any) -> Any:
    """The PyTorch trainer starts from fresh weights: of a picture, every fourteenth pixel is seen there too."""
    model = paligemma(config)
    kernel = next(p for name, p in model.named_parameters() if name.endswith("patch_embedding.weight"))
    seen = kernel.data[..., ::14, ::14].clone()
    kernel.data.zero_()
    kernel.data[..., ::14, ::14] = 14 * seen
    return model


gemma.get_config = smaller
paligemma = gemma_pytorch.PaliGemmaForConditionalGeneration
gemma_pytorch.PaliGemmaForConditionalGeneration = sparse


def coarse(self: Any, params: Any) -> Any:
    """Base weights on a grid; of a picture, every fourteenth pixel is seen."""
    out = traverse_util.flatten_dict(load(self, params), sep="/")
    for name, leaf in out.items():
        made = np.round(np.asarray(leaf, np.float32) * 32) / 32
        if name.endswith("embedding/kernel"):
            seen = np.zeros_like(made)
            seen[::14, ::14] = 14 * made[::14, ::14]
            made = seen
        out[name] = made.astype(leaf.dtype)
    return traverse_util.unflatten_dict(out, sep="/")


def train(
    script: str,
    stage: int,
    exp: str,
    *flags: str,
    do: str = "train",
    prior: Path | None = None,
    steps: int = 2,
    **recipe,
):
    """One job as the launcher starts it; the step folder that it left."""
    made = from_flat({"noise_draws": 2, "gap_every": 1, "vlm": "frozen"} | recipe)
    sys.argv = [script, "tiny_pi05", f"--exp-name={exp}", f"--num-train-steps={steps}", *flags]
    job = {"do": do, "stage": stage, "recipe": asdict(made), "prior": None if prior is None else str(prior)}
    try:
        (child.train if do == "train" else child.cache)(SCRIPTS / script, job)
    finally:
        getattr(training, "REPLACED", training).restore()  # c5d143f restores by the module
    run = Path(f"checkpoints/tiny_pi05_apt{stage}/{exp}")
    return max(run.glob("[0-9]*"), key=lambda p: int(p.name), default=run)


def act(folder: Path) -> np.ndarray:
    """What the host's own Policy answers, under two instructions, from one noise: [2, T, A]."""
    from openpi.policies import policy_config
    from openpi.training import config

    from apt_plugin.hosts.openpi.derive import derive
    from apt_plugin.stages import read_record

    record = read_record(folder / "assets")
    made = derive(config.get_config("tiny_pi05"), record.stage, record.recipe)
    policy = policy_config.create_trained_policy(made, folder)
    rng = np.random.default_rng(0)
    seen = {
        "observation/state": rng.random(8).astype(np.float32),
        "observation/image": rng.integers(256, size=(224, 224, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(256, size=(224, 224, 3), dtype=np.uint8),
    }
    noise = rng.standard_normal((5, 8)).astype(np.float32)
    return np.stack([policy.infer(seen | {"prompt": words}, noise=noise)["actions"] for words in frames.TASKS])


def install() -> None:
    preload.Opened.load = coarse


def make() -> None:
    install()
    frames.np = _Flat()
    frames.write("local/toy", episodes=2, frames=4)
    found = [train("train.py", 1, "jax")]
    found.append(train("train.py", 2, "jax", prior=found[0]))
    cached = {"cache": "cache", "cache_kind": "kv", "cache_views": 0}
    train("train.py", 1, "cached", do="build", **cached)
    found.append(train("train.py", 1, "cached", **cached))
    found += pytorch()
    shutil.copytree("data/local/toy", "kept/data/local/toy")
    shutil.copytree("cache", "kept/cache")
    shutil.copytree("assets", "kept/assets")
    keep(found)


def pytorch() -> list[Path]:
    first = train("train_pytorch.py", 1, "torch", "--save-interval=1")
    return [first, train("train_pytorch.py", 2, "torch", "--save-interval=1", prior=first)]


def keep(found: list[Path]) -> None:
    """The checkpoints and what each does; optimiser state for the run that is resumed."""
    for folder in found:
        shutil.copytree(folder, f"kept/{folder}")
        np.save(f"kept/{folder}/expected.npy", act(folder))
        for name in ("train_state", "optimizer.pt"):
            left = Path(f"kept/{folder}/{name}")
            if "apt2/jax" not in str(folder):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


class _Flat:
    """numpy for frames.py, with pictures of one colour."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    class random:  # noqa: N801
        @staticmethod
        def default_rng(seed: int) -> Any:
            return _Colours(seed)


class _Colours:
    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)
        self.uniform = self._rng.uniform

    def integers(self, low: int, high: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.full(shape, self._rng.integers(low, high), dtype)
