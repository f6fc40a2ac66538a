"""Any lerobot policy folder, opened with its own processors; and frames of a data set as its training saw them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apt_plugin import files
from apt_plugin.backends import torch_params
from apt_plugin.errors import AptError, did_you_mean
from apt_plugin.hosts.lerobot import loading, register, renaming
from apt_plugin.hosts.lerobot.checkpoints import openable
from apt_plugin.hosts.lerobot.families import POLICIES, find, host_type
from apt_plugin.hosts.lerobot.names import ADAPTER_WEIGHTS, PREPROCESSOR, WEIGHTS
from apt_plugin.hosts.lerobot.steps import check_steps
from apt_plugin.listen.loaded import check_loaded

ROOM, SPARE = 64, 16  # prompts limited to fewer tokens than ROOM get SPARE more


@dataclass
class Opened:
    """A policy in eval mode with its saved pre- and postprocessor."""

    policy: Any
    preprocessor: Any
    postprocessor: Any
    folder: Path


def open_policy(path: str | Path, device: str = "") -> Opened:
    """Open a policy directory whose type is registered: lerobot's own, ours, `lerobot_policy_*` packages.

    Raises:
        AptError: no folder, no config, a processor step that nobody registered, adapters without their base, weights
            that the host did not load, or a type nobody registered.
    """
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.utils.import_utils import register_third_party_plugins

    register()
    register_third_party_plugins()
    folder = openable(loading.local_folder(path))
    if not (folder / "config.json").is_file():
        raise AptError(
            f"{folder} holds no policy: neither config.json, nor a run of lerobot-train with "
            "checkpoints/last/pretrained_model."
        )
    config: Any = loading.config_of(folder)
    check_steps(folder)
    config.pretrained_path = folder
    if device or not config.device:
        config.device = device or "cpu"
    if getattr(config, "compile_model", False):
        config.compile_model = False  # one pass over a few batches: compiling costs more than it saves
    if (folder / ADAPTER_WEIGHTS).is_file() and not (folder / WEIGHTS).is_file():
        policy = _with_adapters(folder, config)
    else:
        policy = _loaded(config, folder)
    policy.eval()
    if not (folder / PREPROCESSOR).is_file():
        raise AptError(f"{folder} holds no {PREPROCESSOR}: it was not written by lerobot-train.")
    moved = {"device_processor": {"device": str(config.device)}}
    before, after = make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=moved)
    return Opened(policy, before, after, folder)


def make_room(preprocessor: Any) -> None:
    """Longer prompts than in training, for paraphrases; the limit bounds memory, not the model."""
    steps: list[Any] = list(preprocessor.steps)
    for step in steps:
        if isinstance(limit := getattr(step, "max_length", None), int) and limit < ROOM:
            step.apt_own_length, step.max_length = limit, limit + SPARE


def _loaded(config: Any, folder: Path) -> Any:
    """The host's own loading, looked at afterwards: lerobot's π loaders catch every error and return a random model.

    Raises:
        AptError: no weights there, or weights that are not in the policy now.
    """
    from lerobot.policies.factory import get_policy_class

    paths = files.weight_files(folder, WEIGHTS)
    for path in paths:
        files.check_safetensors(path)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    if config.type not in POLICIES.values():  # ours stop by themselves
        family = find(config.type)
        renames = family.renames(paths, host_type(config.type)) if family else {}
        check_loaded(torch_params.not_loaded(policy, paths, renames), len(policy.state_dict()), folder)
    return policy


def _with_adapters(folder: Path, config: Any) -> Any:
    """A PEFT checkpoint: its base first, then the adapters, as lerobot's own factory loads it."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    peft = PeftConfig.from_pretrained(str(folder))
    base = peft.base_model_name_or_path
    if not base:
        raise AptError(f"{folder} holds adapters that name no base model.")
    policy = _loaded(config, loading.local_folder(base))
    wrapped = PeftModel.from_pretrained(policy, str(folder), config=peft)
    stored, held = load_file(folder / ADAPTER_WEIGHTS), get_peft_model_state_dict(wrapped)
    lost = [n for n, t in held.items() if n not in stored or not torch.equal(stored[n].to(t), t)]
    check_loaded(lost, len(held), folder)
    return wrapped.base_model.model


def open_dataset(dataset: str, root: str, opened: Opened, revision: str | None = None) -> Any:
    """A LeRobotDataset with the policy's own action chunks: `dataset` is a hub id, at a revision, or a local folder.

    Raises:
        AptError: it cannot be read, or lacks what the policy reads.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata

    if not root and Path(dataset).is_dir():
        root, dataset = dataset, f"local/{Path(dataset).name}"
    if not root and (Path(dataset).is_absolute() or dataset.startswith(".")):
        raise AptError(f"There is no data set folder at {dataset}.")
    where = root or None
    try:
        meta = LeRobotDatasetMetadata(dataset, root=where, revision=revision)
    except Exception as error:
        raise AptError(f"{dataset} cannot be read as a LeRobot data set: {error}") from error
    config = opened.policy.config
    check_keys(config, opened.preprocessor, meta.features)
    deltas = renaming.chunks(config, meta, renaming.by_steps(opened.preprocessor))
    return LeRobotDataset(dataset, root=where, delta_timestamps=deltas, revision=revision, video_backend="pyav")


def check_keys(config: Any, preprocessor: Any, features: Any) -> None:
    """What the policy reads must be in the data, after the renaming that its processor does.

    Raises:
        AptError: naming the keys on both sides; GR00T's issues 64 and 92 were such mismatches.
    """
    renames = renaming.by_steps(preprocessor)
    have = {str(renames.get(name, name)) for name in features}
    wanted = [*config.image_features, *(["observation.state"] if config.robot_state_feature else []), "action"]
    # A camera that the policy pads with an empty picture may be missing, as long as one is there.
    empty = {name for name in wanted if "empty_camera" in name}
    missing = [name for name in wanted if name not in have and name not in empty]
    if missing:
        raise AptError(
            f"The policy reads {', '.join(missing)}, which the data set lacks.{did_you_mean(missing[0], have)} It has "
            f"{', '.join(sorted(have))}. Use the data set that the policy was trained on."
        )
