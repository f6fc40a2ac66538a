"""A stock lerobot `groot` checkpoint from one of `groot_apt`, where that is exact; file to file."""

from __future__ import annotations

import logging
from pathlib import Path

from safetensors.torch import save_file

from apt_plugin import files
from apt_plugin.backends.torch_groot_export import copy_beside, folded
from apt_plugin.hosts.lerobot.names import WEIGHTS
from apt_plugin.hub import local_folder
from apt_plugin.stages import RECORD

logger = logging.getLogger(__name__)

_PREFIX = "_groot_model."  # lerobot's policy holds the host model under this name
_OURS = ("stage", "recipe", "stage1_path")  # see StageFields
_LEFT = {RECORD, WEIGHTS, "config.json", "train_config.json"}


def export(checkpoint: Path, output: Path) -> None:
    """
    Raises:
        AptError: folding would not be exact (with the reason), or `output` holds something already.
    """
    config = files.read_json(checkpoint / "config.json")
    base = files.read_json(local_folder(config["base_model_path"]) / "config.json")
    state = folded(checkpoint, output, 2 * base.get("attend_text_every_n_blocks", 2), WEIGHTS, _PREFIX)
    copy_beside(checkpoint, output, _LEFT)
    config = {key: value for key, value in config.items() if key not in _OURS}
    files.write_json(output / "config.json", config | {"type": "groot", "pretrained_path": None})
    save_file(state, output / WEIGHTS, {"format": "pt"})
    logger.info("APT: %s is a stock groot checkpoint now.", output)
