"""Isaac GR00T: both stages by the launcher, and a feature cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tests.hosts.gr00t import tiny

LEFT, RIGHT = "move the block to the left", "move the block to the right"
SEEN = Path(tiny.__file__).with_name("no_images.py")
CACHED = ("--modality-config-path", str(SEEN), "--state-dropout-prob", "0.0", "--apt.prove", "false", "--apt.cache",
          "cache", "--apt.cache_views", "0")  # fmt: skip
USED = [0, 2]  # the embodiment of the proofs, and LIBERO_PANDA's


def observation(words: str) -> dict[str, Any]:
    """An early frame of the data set, as a policy takes it."""
    from gr00t.data.dataset.lerobot_episode_loader import LeRobotEpisodeLoader

    load = LeRobotEpisodeLoader.__getitem__
    LeRobotEpisodeLoader.__getitem__ = lambda self, index: pd.concat([load(self, index)] * 2, ignore_index=True)
    try:  # tiny.observation looks at the actions of the 16 frames behind frame 5
        return tiny.observation(Path.cwd(), words)
    finally:
        LeRobotEpisodeLoader.__getitem__ = load


def act(folder: Path) -> np.ndarray:
    """What the host's own policy does in front of one frame, under two instructions: [2, T, A]."""
    from gr00t.policy.gr00t_policy import Gr00tPolicy

    from apt_plugin.hosts.gr00t import register

    register()
    policy, out = Gr00tPolicy(tiny.TAG, str(folder), device="cpu"), []
    for words in (LEFT, RIGHT):
        torch.manual_seed(0)
        action, _ = policy.get_action(observation(words))
        out.append(np.concatenate([np.asarray(action[name])[0] for name in sorted(action)], -1))
    return np.stack(out)


class Colour:
    """A source of pictures of one colour, for tiny.dataset."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng

    def integers(self, low: int, high: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.full(shape, self._rng.integers(low, high), dtype)


def base() -> None:
    tiny.vlm()
    tiny.base(Path("base2"), 2)
    from safetensors.torch import load_file, save_file

    for path in (Path("base2/model.safetensors"), *Path("nvidia").rglob("model.safetensors")):
        state = {name: (value * 32).round() / 32 for name, value in load_file(path).items()}
        for name, value in state.items():
            if value.shape[:1] == (32,) and "action_head" in name and (".W" in name or name.endswith(".b")):
                kept = value[USED].clone()
                value.zero_()
                value[USED] = kept
        save_file(state, path, {"format": "pt"})


def train(out: str, *more: str) -> None:
    done = tiny.finetune(Path.cwd(), Path(out), "--max-steps", "2", *more)
    assert done.returncode == 0, done.stderr[-5000:]


def make() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "TOKENIZERS_PARALLELISM": "false",
                   "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    base()
    video = tiny._video
    tiny._video = lambda path, frames, rng: video(path, frames, Colour(rng))
    tiny.dataset(Path("data"), episodes=2, frames=20)
    train("run")
    train("cached", "--apt.stage", "1", *CACHED)
    for name in ("nvidia", "base2", "data", "cache"):
        shutil.copytree(name, f"kept/{name}")
    for run in ("run/stage1", "run/stage2"):
        folder = Path(run, "checkpoint-2")
        shutil.copytree(folder, f"kept/{folder}")
        np.save(f"kept/{folder}/expected.npy", act(folder))
    Path("kept/cached/stage1/checkpoint-2").mkdir(parents=True)
    shutil.copy("cached/stage1/checkpoint-2/apt.json", "kept/cached/stage1/checkpoint-2")
    light(Path("kept/run"))


def light(run: Path) -> None:
    """Optimiser state for the stage that is resumed alone, and its moments zero: they do not compress."""
    (run / "stage1/checkpoint-2/optimizer.pt").unlink()
    path = run / "stage2/checkpoint-2/optimizer.pt"
    state = torch.load(path, weights_only=True)
    for moments in state["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name].zero_()
    torch.save(state, path)
