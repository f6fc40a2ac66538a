"""lerobot: π0.5 and π0 in both stages, both fusion kinds, LoRA, GR00T, and a feature cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from tests.hosts.lerobot import datasets, tiny, tiny_groot

SIZES = tiny.TINY | {
    "vlm_width": 16, "vlm_mlp": 16, "expert_width": 16, "expert_mlp": 16, "depth": 2, "vocab": 320, "vision_width": 16,
    "vision_mlp": 16,
}  # fmt: skip
GROOT = ("--policy.sizes", "--policy.tokenizer", "--policy.image_resolution", "--policy.num_inference",
         "--policy.scheduler_warmup")  # fmt: skip


def coarse(model: torch.nn.Module) -> None:
    for p in model.parameters():
        p.data = (p.data * 32).round() / 32


def write_data(root: Path, side: int) -> None:
    """Two episodes of eight frames in pictures of one colour."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features: dict = {
        name: {"dtype": "image", "shape": (side, side, 3), "names": ["height", "width", "channel"]}
        for name in tiny.CAMERAS
    }
    features["observation.state"] = {"dtype": "float32", "shape": (tiny.STATE,), "names": None}
    features["action"] = {"dtype": "float32", "shape": (tiny.ACTION,), "names": None}
    made = LeRobotDataset.create("test/data", fps=10, features=features, root=root, use_videos=False)
    rng = np.random.default_rng(0)
    for task in ("pick up the red cup", "push the blue block"):
        for _ in range(8):
            frame = {name: np.full((side, side, 3), rng.integers(255), np.uint8) for name in tiny.CAMERAS}
            frame["observation.state"] = rng.uniform(-1, 1, tiny.STATE).astype(np.float32)
            frame["action"] = rng.uniform(-1, 1, tiny.ACTION).astype(np.float32)
            made.add_frame({**frame, "task": task})
        made.save_episode()
    made.finalize()


def flags(run: str, stage: int, *more: str, family: str = "pi05") -> list[str]:
    found = datasets.flags(Path("data"), "tok", output_dir=f"{run}/stage{stage}", steps=2, save_freq=2)
    found = [f for f in found if not f.startswith("--policy.sizes")] + [f"--policy.sizes={json.dumps(SIZES)}"]
    if family == "groot":
        found = [f for f in found if not f.startswith(GROOT)] + ["--policy.use_bf16=false"]
    return [*found, "--batch_size=2", *more]


def train(run: str, stage: int, *more: str, family: str = "pi05", prior: str = "") -> Path:
    if stage == 1:
        field = "base_model_path" if family == "groot" else "pretrained_path"
        base = f"--policy.{field}={Path('plain', family).resolve()}"
        start = [f"--policy.type={family}_apt", "--policy.stage=1", base]
    else:
        start = [f"--policy.path={prior}/stage1/checkpoints/000002/pretrained_model", "--policy.stage=2"]
    datasets.lerobot_train(*start, *flags(run, stage, *more, family=family))
    return Path(f"{run}/stage{stage}/checkpoints/000002")


def opened(folder: Path):
    """As lerobot's own scripts open a checkpoint: (policy, preprocessor, postprocessor)."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
    from lerobot.policies import make_policy, make_pre_post_processors
    from lerobot.policies.factory import get_policy_class

    config = PreTrainedConfig.from_pretrained(folder)
    config.pretrained_path = folder
    if (folder / "adapter_model.safetensors").is_file():
        policy = make_policy(config, ds_meta=LeRobotDatasetMetadata("test/data", root="data"))
    else:
        policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    return policy.eval(), *make_pre_post_processors(config, pretrained_path=folder)


def act(folder: Path) -> np.ndarray:
    """What the checkpoint does in front of frame 5 of the data, under two instructions: [2, T, A]."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    policy, before, after = opened(folder)
    frame = LeRobotDataset("test/data", root="data")[5]
    out = []
    for words in ("push the blue block", "pick up the red cup"):
        item = {k: v for k, v in frame.items() if k.startswith("observation.")} | {"task": words}
        policy.reset()
        torch.manual_seed(0)
        out.append(after(policy.predict_action_chunk(before(item)))[0].detach().float().numpy())
    return np.stack(out)


def make() -> None:
    torch.set_num_threads(1)
    tiny.tokenizer(Path("tok"))
    tiny.TINY.update(SIZES)
    write_data(Path("data"), 28)
    for family in ("pi05", "pi0"):
        policy = tiny.stock(family, sizes=SIZES)
        coarse(policy)
        policy.save_pretrained(f"plain/{family}")
    runs = [train("pi05", 1)]
    runs.append(train("pi05", 2, prior="pi05"))
    runs.append(train("pi05_host", 2, "--policy.recipe.fusion.kind=host", prior="pi05"))
    lora = ("--policy.recipe.vlm=lora", "--peft.method_type=LORA", "--peft.r=2")
    runs.append(train("pi05_lora", 2, *lora, prior="pi05"))
    runs.append(train("pi0", 1, family="pi0"))
    runs.append(train("pi0", 2, family="pi0", prior="pi0"))
    cached = ("--policy.recipe.cache=cache", "--policy.recipe.cache_kind=kv")
    start = ["--policy.type=pi05_apt", "--policy.stage=1", "--policy.pretrained_path=plain/pi05"]
    datasets.cache_program("build", *start, *flags("never", 1, *cached))
    runs.append(train("pi05_cached", 1, *cached))
    groot()
    runs.append(train("groot", 1, family="groot"))
    runs.append(train("groot", 2, family="groot", prior="groot"))
    keep(runs)


def groot() -> None:
    vlm = tiny_groot.vlm_folder(Path.cwd())
    torch.manual_seed(0)
    config = tiny_groot.base_config(vlm, 2, dit=4)
    model = tiny_groot.GR00TN17(config, load_backbone_weights=False)
    tiny_groot.open_up(model)
    coarse(model)
    for p in model.parameters():
        if p.dim() == 3 and p.shape[0] == config.max_num_embodiments:  # the embodiments that nobody uses
            keep_one = p.data[10].clone()
            p.data.zero_()
            p.data[10] = keep_one
    model.backbone.model.tie_weights()
    model.save_pretrained("plain/groot")


def keep(runs: list[Path]) -> None:
    """The checkpoints, what opening them needs, and what each does; optimiser state for the run that is resumed."""
    for name in ("tok", "data", "cache", "nvidia", "plain/pi05", "plain/groot"):
        shutil.copytree(name, f"kept/{name}", ignore=shutil.ignore_patterns(".cache"))
    for folder in runs:
        np.save(folder / "expected.npy", act(folder / "pretrained_model"))
        shutil.copytree(folder.parents[1], f"kept/{folder.parents[1]}", symlinks=True)
        if str(folder) != "pi05/stage2/checkpoints/000002":
            shutil.rmtree(f"kept/{folder}/training_state")
