"""A reader's machine without network: the bases as the hub keeps them, and the reader's own data sets, all tiny.

Names, file names and layouts are the published ones; weights are made up. `lerobot/pi05_base` holds its processors, one
of two tied tensors, and the cameras that lerobot's own base names.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from apt_plugin.hosts.lerobot.sizes import TINY, sized

SIZES = {**TINY, "depth": 2, "patch": 112}  # 4 tokens a camera at the host's own 224 pixels
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
TOKENIZER = "google/paligemma-3b-pt-224"
SNAPSHOT = "0" * 40
TASKS = ["pick up the red cup", "push the blue block", "place green"]


def snapshot(home: Path, repo: str) -> Path:
    """The folder in which the hub's cache keeps a model."""
    folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(SNAPSHOT)
    (folder / "snapshots" / SNAPSHOT).mkdir(parents=True)
    return folder / "snapshots" / SNAPSHOT


def base(folder: Path, family: str) -> None:
    """A base as `lerobot/<family>_base` lies on the hub; call where the tokenizer is found under its own name."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
    from lerobot.policies import make_pre_post_processors
    from lerobot.policies.factory import get_policy_class

    from tests.hosts.lerobot import tiny

    inputs = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 224, 224)) for name in CAMERAS}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (32,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (32,))}
    config: Any = PreTrainedConfig.get_choice_class(family)(
        input_features=inputs, output_features=outputs, device="cpu"
    )
    torch.manual_seed(0)
    with sized(SIZES):
        policy: Any = get_policy_class(family)(config)
    tiny.open_up(policy)
    policy.model.paligemma_with_expert.paligemma.tie_weights()
    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=None):
        processor.save_pretrained(folder)


def groot(home: Path) -> None:
    """`nvidia/GR00T-N1.7-3B` and the VLM that it names."""
    from tests.hosts.lerobot import tiny_groot

    made = tiny_groot.vlm_folder(home)
    kept = snapshot(home, tiny_groot.VLM)
    kept.rmdir()
    made.rename(kept)
    widths = {"max_state_dim": 132, "max_action_dim": 132, "action_horizon": 40}  # what the published one has
    tiny_groot.base(snapshot(home, "nvidia/GR00T-N1.7-3B"), Path(tiny_groot.VLM), **widths)


def machine(root: Path) -> None:
    """Everything under `root`; call where HF_HOME is `root/hf` and HF_LEROBOT_HOME `root/data`."""
    from tests.hosts.lerobot import datasets, tiny

    tokenizer = snapshot(root / "hf", TOKENIZER)
    tiny.tokenizer(tokenizer)
    (tokenizer / "config.json").write_text('{"model_type": "paligemma"}')
    for family in ("pi05", "pi0"):
        base(snapshot(root / "hf", f"lerobot/{family}_base"), family)
    groot(root / "hf")
    for name in ("kitchen", "labelled"):
        datasets.write(root / "data/me" / name, TASKS)
    datasets.write(root / "data/me/my-robot", TASKS, episodes=3, frames=60)  # GR00T wants whole chunks
    datasets.strip_tasks(datasets.write(root / "data/me/kitchen-play", [""], episodes=3))
    datasets.write(root / "data/me/unlabelled", [""], episodes=3)


if __name__ == "__main__":
    machine(Path(sys.argv[1]))
