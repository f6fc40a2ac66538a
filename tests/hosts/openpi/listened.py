"""Policies of openpi to listen to, saved as its own trainers save them, and the data they were trained on."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors.torch
import torch
from openpi import transforms
from openpi.models import model as _model
from openpi.models_pytorch.pi0_pytorch import PI0Pytorch
from openpi.policies import policy as _policy
from openpi.shared import normalize
from openpi.training import config as _config

from apt_plugin.hosts.openpi import loading, records
from apt_plugin.hosts.openpi.data import AptData
from apt_plugin.hosts.openpi.derive import shapes_of
from apt_plugin.hosts.openpi.torch_training import TorchRun
from tests.hosts.openpi import tiny

TASKS = ("push the red cube", "pull the blue bowl", "lift the green cup")
TEXTS = ["push the red cube", "pull the blue bowl and wait"]


def write_data(folder: Path, tasks: tuple[str, ...] = TASKS, episodes: int = 6, wrist: str = "wrist_image") -> Path:
    """A LIBERO-shaped LeRobot set whose task decides the sign of the actions; episodes of 8 steps."""
    from lerobot.common.datasets.lerobot_dataset import LeRobotDataset

    shapes = {"image": (32, 32, 3), wrist: (32, 32, 3), "state": (8,), "actions": (7,)}
    kinds = {"image": "image", wrist: "image"}
    features = {
        name: {"dtype": kinds.get(name, "float32"), "shape": shape, "names": [str(i) for i in range(len(shape))]}
        for name, shape in shapes.items()
    }
    data = LeRobotDataset.create("local/listen", fps=10, features=features, root=folder, use_videos=False)
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        sign = 1.0 - episode % len(tasks)
        for _ in range(8):
            image = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
            state = rng.uniform(-1, 1, 8).astype(np.float32)
            actions = (0.5 * sign + 0.1 * state[:7]).astype(np.float32)
            frame = {"image": image[0], wrist: image[1], "state": state, "actions": actions}
            data.add_frame(frame, task=tasks[episode % len(tasks)])
        data.save_episode()
    return folder


def train_config(family: str, folder: Path, data: Path, **more: Any) -> _config.TrainConfig:
    config = _config.TrainConfig(
        name=f"listen_{family}{''.join(more.values())}",
        model=tiny.stock(family, max_token_len=150, action_dim=8, **more),
        data=_config.LeRobotLiberoDataConfig(
            repo_id=str(data),
            assets=_config.AssetsConfig(asset_id="toy"),
            base_config=_config.DataConfig(prompt_from_task=True),
        ),
        assets_base_dir=str(folder / "assets"),
    )
    _config._CONFIGS_DICT[config.name] = config
    return config


def save_stats(folder: Path) -> None:
    """Scales that are not one: actions that were not normalised would show."""
    part = normalize.NormStats(mean=np.full(7, 0.1), std=np.full(7, 0.4), q01=np.full(7, -0.7), q99=np.full(7, 0.9))
    whole = normalize.NormStats(mean=np.zeros(8), std=np.ones(8), q01=-np.ones(8), q99=np.ones(8))
    normalize.save(folder, {"state": whole, "actions": part})


def weights(config: Any) -> dict[str, Any]:
    """Made-up weights without a zero in them (openpi's fresh image head, adaRMS and our gates would hide a leak or a
    deaf path); a name has the same numbers in every model. No initialiser is compiled."""
    made = {}
    for name, shape in shapes_of(config).items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        scale = 0.7 * shape[-2] ** -0.5 if name.endswith("kernel") else 1.0 if "gate" in name else 0.05
        made[name] = (rng.standard_normal(shape) * scale * (8 if "input_embedding" in name else 1)).astype(np.float32)
    return made


def save_jax(folder: Path, config: Any, stock: _config.TrainConfig, ours: bool) -> None:
    """A step folder as the host's checkpoint manager writes it, with our record where it is ours."""
    leaves = weights(config)
    if ours:  # the host trains what is frozen in bfloat16
        leaves = {n: v.astype(jnp.bfloat16) if records.part_of(n) == "vlm" else v for n, v in leaves.items()}
    tree = loading.unflat(leaves)
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(folder / "params", {"params": tree})
    save_stats(folder / "assets" / ("apt" if ours else "") / "toy")
    if ours:
        data = AptData(repo_id=stock.data.repo_id, inner=stock.data, stock_name=stock.name)
        derived = dataclasses.replace(stock, model=config, data=data)
        records.Run(derived, state_dim=8).writer(tree, 3, "apt/toy")(folder / "assets")


def save_torch(folder: Path, config: Any, stock: _config.TrainConfig, ours: bool) -> None:
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    training = None
    if ours:  # a run of ours is of a model config of ours
        data = AptData(repo_id=stock.data.repo_id, inner=stock.data, stock_name=stock.name)
        training = TorchRun(dataclasses.replace(stock, model=config, data=data), state_dim=8, asset_id="apt/toy")
    model = PI0Pytorch(config) if training is None else training.build(config)
    torch.manual_seed(1)  # the VLM's parameters come first: the same in stock and ours
    with torch.no_grad():
        for parameter in model.parameters():  # adaRMS, the image head and the gates start at zero
            parameter += 0.05 * torch.randn_like(parameter)
    save_stats(folder / "assets" / ("apt" if ours else "") / "toy")
    if training is not None:
        training.save(safetensors.torch, model, folder / "model.safetensors")
    else:
        safetensors.torch.save_model(model, folder / "model.safetensors")


def host_policy(kind: str, folder: Path, listener: Any) -> Any:
    """What the host's server would run on the same checkpoint, but in float32: its `create_trained_policy` casts to
    bfloat16, in which a comparison to 1e-4 is none."""
    source = _config._CONFIGS_DICT["listen_pi0dummy_lora" if "lora" in kind else f"listen_{kind.split('_')[-1]}"]
    data = source.data.create(source.assets_dirs, source.model)
    stats = normalize.load(folder / "assets" / "toy")
    if "torch" in kind:
        model = source.model.load_pytorch(source, str(folder / "model.safetensors"))
    else:
        model = source.model.load(_model.restore_params(folder / "params", dtype=jnp.float32))
    inputs = [*data.data_transforms.inputs, transforms.Normalize(stats, use_quantiles=data.use_quantile_norm)]
    del listener
    torched = {"is_pytorch": True, "pytorch_device": "cpu"} if "torch" in kind else {}
    return _policy.Policy(model, transforms=[*inputs, *data.model_transforms.inputs], **torched)
