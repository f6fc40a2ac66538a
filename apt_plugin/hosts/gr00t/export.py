"""A stock GR00T checkpoint from one of ours, where that is exact; file to file, without importing the host."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from safetensors.torch import save_file

from apt_plugin import files, seal
from apt_plugin.backends.torch_groot_export import copy_beside, folded
from apt_plugin.hosts.gr00t.checkpoints import openable
from apt_plugin.hosts.gr00t.names import POLICIES, SEALED, WEIGHTS
from apt_plugin.stages import RECORD, read_record

logger = logging.getLogger(__name__)

_HOST = next(iter(POLICIES))
_LEFT = {RECORD, WEIGHTS, "config.json", "trainer_state.json", "optimizer.pt", "scheduler.pt", "training_args.bin"}


def export(checkpoint: Path, output: Path) -> None:
    """
    Args:
        checkpoint: a checkpoint folder, or a run: then its newest whole checkpoint.

    Raises:
        AptError: see `folded`; or no checkpoint there that can be opened.
    """
    checkpoint = openable(checkpoint)
    record = read_record(checkpoint)
    beside = [checkpoint, checkpoint / "processor"]
    seal.check(record.sealed, beside)
    config = json.loads((checkpoint / "config.json").read_text())
    state = folded(checkpoint, output, 2 * config.get("attend_text_every_n_blocks", 2), WEIGHTS)
    copy_beside(checkpoint, output, _LEFT)
    for name in SEALED:  # a finished run keeps its processor in a folder of its own
        if (source := beside[1] / name).is_file() and not (output / name).exists():
            shutil.copy2(source, output)
    config = {key: value for key, value in config.items() if not key.startswith("apt_")}
    files.write_json(output / "config.json", config | {"model_type": _HOST, "architectures": [_HOST]})
    save_file(state, output / WEIGHTS, {"format": "pt"})
    logger.info("APT: %s is a stock %s checkpoint now.", output, _HOST)
