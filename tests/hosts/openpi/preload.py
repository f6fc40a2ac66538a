"""Imported in front of the host's script by the round-trip tests (APT_PRELOAD): small models, a made-up data set,
configs `tiny_pi0` and `tiny_pi05` with the host's LIBERO transforms, and a server that listens on loopback alone.

The host's own `pi0_libero` and `pi05_libero` keep their names, data, model settings and base, in small sizes: the base
is written where openpi's download cache keeps it, in the layout that openpi publishes.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
from openpi.models import model as _model
from openpi.models import tokenizer as _tokenizer
from openpi.serving import websocket_policy_server
from openpi.shared import normalize
from openpi.training import config as _config
from openpi.training import data_loader, optimizer

from tests.hosts.openpi import bases, tiny
from tests.hosts.openpi.bases import Opened

ROOT = Path(os.environ.get("APT_TEST_ROOT", "."))
TASKS = ("push the red cube", "pull the blue bowl")


PLAY = "local/play"  # other data of the same robot, without task annotation
FIXED = "APT_TEST_FIXED" in os.environ  # two samples, no augmentation, actions from one fixed noise


class Toy:
    """32 frames as a LeRobot data set of LIBERO gives them; the task decides the sign of the actions."""

    def __init__(self, horizon: int, data):
        self.horizon = horizon
        self.spoken = data.prompt_from_task
        if self.spoken and data.repo_id == PLAY:
            raise ValueError("this data set has no tasks to take a prompt from")

    def __len__(self) -> int:
        return 2 if FIXED else 32

    def __getitem__(self, index) -> dict:
        rng, task = np.random.default_rng(int(index)), int(index) % 2
        image = rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
        state = rng.uniform(-1, 1, 8).astype(np.float32)
        actions = np.full((self.horizon, 7), 0.5 - task, np.float32) + 0.1 * state[:7]
        sample = {"image": image[0], "wrist_image": image[1], "state": state, "actions": actions}
        return sample | {"prompt": TASKS[task]} if self.spoken else sample


class ToyMeta:
    """What LeRobot's metadata say of it."""

    def __init__(self, repo_id: str):
        self.tasks = {} if repo_id == PLAY else dict(enumerate(TASKS))
        self.features, self.total_frames, self.root = {}, 32, ROOT / "no such folder"


def _tokenizer_init(self, max_len: int = 48) -> None:
    self._max_len, self._tokenizer = max_len, tiny.Pieces()


def _server_init(self, policy, host="0.0.0.0", port=None, metadata=None) -> None:
    del host
    _real_server(self, policy, "127.0.0.1", port, metadata)


def config(family: str) -> _config.TrainConfig:
    return _config.TrainConfig(
        name=f"tiny_{family}",
        exp_name="e1",
        model=tiny.stock(family, max_token_len=150, action_dim=8),
        data=_config.LeRobotLiberoDataConfig(
            repo_id=os.environ.get("APT_TEST_REPO", "local/toy"), base_config=_config.DataConfig(prompt_from_task=True)
        ),
        weight_loader=Opened(),
        lr_schedule=optimizer.CosineDecaySchedule(warmup_steps=2, peak_lr=1e-3, decay_steps=100, decay_lr=1e-4),
        ema_decay=0.99,  # the host's default: it damages a frozen VLM unless kept from it
        assets_base_dir=str(ROOT / "assets"),
        checkpoint_base_dir=str(ROOT / "checkpoints"),
        pytorch_training_precision="float32",
        batch_size=2,
        num_workers=0,
        num_train_steps=4,
        log_interval=1,
        save_interval=2,
        wandb_enabled=False,
    )


_small = tiny.small()  # held: a context manager that is collected leaves its block
_small.__enter__()
_tokenizer.PaligemmaTokenizer.__init__ = _tokenizer_init
_real_server = websocket_policy_server.WebsocketPolicyServer.__init__
websocket_policy_server.WebsocketPolicyServer.__init__ = _server_init
if "APT_TEST_FRAMES" not in os.environ:  # else real LeRobot data (frames.py)
    data_loader.create_torch_dataset = lambda data, horizon, model: Toy(horizon, data)
    data_loader.lerobot_dataset.LeRobotDatasetMetadata = ToyMeta
if "APT_TEST_ROOT" in os.environ:  # openpi's download cache: what lies in it is not fetched
    os.environ["OPENPI_DATA_HOME"] = str(ROOT / "openpi-data")


def statistics(state: int, actions: int, scale: float = 1.0) -> dict[str, normalize.NormStats]:
    found = {}
    for name, width in (("state", state), ("actions", actions)):
        ones = np.ones(width, np.float32)
        found[name] = normalize.NormStats(mean=0 * ones, std=scale * ones, q01=-scale * ones, q99=scale * ones)
    return found


def write_statistics(name: str, repo: str, scale: float = 1.0) -> None:
    normalize.save(ROOT / "assets" / name / repo, statistics(8, 7, scale))


def shrunk(stock: _config.TrainConfig) -> _config.TrainConfig:
    """A config of the host's in small sizes; what it says of data, transforms, model and base stays."""
    small = {"paligemma_variant": "dummy", "action_expert_variant": "dummy", "dtype": "float32"}
    return dataclasses.replace(
        stock,
        model=dataclasses.replace(stock.model, **small, pytorch_compile_mode=None),
        pytorch_training_precision="float32",
        batch_size=2,
        num_workers=0,
        num_train_steps=4,
        log_interval=1,
        wandb_enabled=False,
    )


for _family in ("pi0", "pi05"):
    _config._CONFIGS_DICT[f"tiny_{_family}"] = config(_family)
    for _repo, _scale in (("local/toy", 1.0), (PLAY, 2.0)):  # two data sets, two scales
        write_statistics(f"tiny_{_family}", _repo, _scale)
    if "APT_TEST_STATISTICS" in os.environ:  # of one's own data
        write_statistics(f"tiny_{_family}", os.environ["APT_TEST_STATISTICS"])
for _name in ("pi0_libero", "pi05_libero", "pi05_droid_finetune"):
    _config._CONFIGS_DICT[_name] = shrunk(_config._CONFIGS_DICT[_name])
    _stock = _config._CONFIGS_DICT[_name]
    if "libero" in _name:
        write_statistics(_name, _stock.data.repo_id)
    _base = (
        ROOT
        / "openpi-data/openpi-assets/checkpoints"
        / {"pi05_droid_finetune": "pi05_droid"}.get(_name, _name.replace("libero", "base"))
    )
    if {_name, _name.replace("libero", "tabletop")} & set(sys.argv) and not (_base / "params").exists():
        bases.write_jax(_base, _stock.model)
for _name, _repo in (
    ("pi05_tabletop", "labelled"),
    ("pi05_tabletop_play", "unlabelled"),
):  # as examples/tabletop.md says
    _stock = _config._CONFIGS_DICT["pi05_libero"]
    _data = dataclasses.replace(_stock.data, repo_id=f"tabletop/{_repo}")
    _config._CONFIGS_DICT[_name] = dataclasses.replace(_stock, name=_name, data=_data)
# The statistics that the DROID config takes over lie beside the base on openpi's own storage
normalize.save(ROOT / "openpi-data/openpi-assets/checkpoints/pi05_droid/assets/droid", statistics(8, 8))


def _fix_noise() -> None:
    """PyTorch without augmentation, and actions from one fixed noise, so that they can be asked twice."""
    import torch
    from openpi.models_pytorch import pi0_pytorch, preprocessing_pytorch

    ready = preprocessing_pytorch.preprocess_observation_pytorch
    preprocessing_pytorch.preprocess_observation_pytorch = lambda obs, *, train=False: ready(obs, train=False)

    def sample_noise(self, shape, device):  # [B, K, T, A] or [B, T, A]
        draw = np.random.default_rng(0).standard_normal(tuple(shape)[1:]).astype(np.float32)
        return torch.from_numpy(draw).expand(shape).clone()

    pi0_pytorch.PI0Pytorch.sample_noise = sample_noise


if FIXED:
    _fix_noise()
host_preprocess = _model.preprocess_observation
if "APT_TEST_STILL" in os.environ:  # JAX without augmentation
    _model.preprocess_observation = lambda rng, obs, *, train=False: host_preprocess(rng, obs, train=False)
