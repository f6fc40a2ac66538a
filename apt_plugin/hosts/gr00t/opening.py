"""An Isaac GR00T checkpoint and its data, opened for whoever asks a policy (`listen`, `label`)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apt_plugin import files
from apt_plugin.backends import torch_params
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import register
from apt_plugin.hosts.gr00t.checkpoints import openable
from apt_plugin.hosts.gr00t.names import WEIGHTS
from apt_plugin.listen.loaded import check_loaded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A policy in inference, for one embodiment."""

    model: Any
    processor: Any
    tag: Any  # the host's EmbodimentTag
    folder: Path

    @property
    def modality(self) -> dict[str, Any]:
        """What the policy reads of a frame: the host's ModalityConfig by name."""
        known = self.processor.get_modality_configs()[self.tag.value]
        return {name: part for name, part in known.items() if name != "rl_info"}


def load(policy: str, device: str) -> tuple[Any, Any, Path]:
    """Model (float32 on a CPU) and processor of a checkpoint folder, stock or ours.

    Raises:
        AptError: no checkpoint there, or weights that the host did not load.
    """
    register()
    import gr00t.model  # noqa: F401  # registers the model and the processor
    from transformers import AutoModel, AutoProcessor

    folder = openable(Path(policy))
    kind = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model: Any = AutoModel.from_pretrained(folder).eval()
    # transformers starts what a file lacks at random, with a warning
    paths = files.weight_files(folder, WEIGHTS)
    check_loaded(torch_params.not_loaded(model, paths), len(model.state_dict()), folder)
    model.to(device or "cpu", dtype=kind)
    where = folder if (folder / "processor_config.json").is_file() else folder / "processor"
    processor: Any = AutoProcessor.from_pretrained(where)
    processor.eval()
    return model, processor, folder


def open_policy(policy: str, config: str = "", device: str = "") -> Opened:
    """
    Args:
        config: the embodiment tag; may be left out where the checkpoint knows one only.

    Raises:
        AptError: see `load`; a tag that the checkpoint does not know.
    """
    from gr00t.data.embodiment_tags import EmbodimentTag

    model, processor, folder = load(policy, device)
    known = processor.get_modality_configs()
    if not config and len(known) == 1:
        config = next(iter(known))
    try:
        tag = EmbodimentTag.resolve(config)
    except ValueError:  # no such tag at all; the host's own message lists every robot there is
        tag = None
    if tag is None or tag.value not in known:
        names = ", ".join(EmbodimentTag.reverse_lookup(value) for value in sorted(known))
        raise AptError(f"Which embodiment? This checkpoint knows {names}, not {config!r}: write --config TAG.")
    return Opened(model, processor, tag, folder)


def check_data(path: Path, flag: str = "--dataset") -> None:
    """
    Raises:
        AptError: no data set there. Said before a model is loaded.
    """
    if not (path / "meta" / "info.json").is_file():
        raise AptError(f"There is no LeRobot data set at {path}; name its folder with {flag}.")


def open_data(opened: Opened, path: Path, flag: str = "--dataset") -> Any:
    """A data set of the policy's embodiment, by the host's own loader.

    Raises:
        AptError: no data set there, or one of another embodiment.
    """
    from gr00t.data.dataset.lerobot_episode_loader import LeRobotEpisodeLoader
    from gr00t.data.embodiment_tags import EmbodimentTag

    check_data(path, flag)
    try:
        return LeRobotEpisodeLoader(path, opened.modality)
    except (AssertionError, KeyError, ValueError) as error:
        raise AptError(
            f"{path} does not have what {EmbodimentTag.reverse_lookup(opened.tag.value)} reads: {error}. Use the data "
            "set that the policy was trained on."
        ) from error
