"""Runs whose parameters lie in shards (FSDP2) are refused: hashes, records and resuming were never tried on shards."""

from __future__ import annotations

import sys
from typing import Any

from apt_plugin.errors import AptError

_WHY = (
    "trains in shards (FSDP2), and the recipe's hashes, records and resuming were never tried on shards. Leave the "
    "flag out: each process then holds the model."
)


def check(cfg: Any) -> None:
    """Of the host's training config.

    Raises:
        AptError: parameters in shards, or a checkpoint in another format than the one that a run is resumed from.
    """
    if getattr(getattr(cfg, "parallelism", None), "is_sharded", False):
        raise AptError(f"--parallelism.dp_shard={cfg.parallelism.dp_shard} {_WHY}")
    wanted = getattr(cfg, "checkpoint_format", None)
    if wanted is not None and wanted.value != "safetensors":
        raise AptError(
            f"--checkpoint_format={wanted.value} leaves no model.safetensors that --resume=true and Stage 2 could "
            "start from. Leave the flag out (safetensors)."
        )


def check_process() -> None:
    """Of the process that builds a policy: without the launcher nobody shows us the training config.

    Raises:
        AptError: its accelerator will shard what it is given.
    """
    accelerate: Any = sys.modules.get("accelerate.state")  # serving needs none; who shards has imported it
    if accelerate is None or not accelerate.is_initialized():
        return
    if getattr(accelerate.AcceleratorState(), "fsdp_plugin", None) is not None:
        raise AptError(f"--parallelism.dp_shard (or an accelerate configuration with FSDP) {_WHY}")
