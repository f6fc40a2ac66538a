"""Several processes of one run: a process group where the host starts none, and what they may not do."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
import torch.distributed as dist

from apt_plugin.backends import torch_ranks
from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)


def start_group() -> None:
    """Under torchrun without a GPU: gloo, before the host asks for NCCL.

    The host's `_init_distributed_process_group` knows NCCL only and steps back where a group exists already. accelerate
    looks for devices, not for groups: unless told to use the CPU it wraps nothing, and each process trains alone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available() and not dist.is_initialized():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
        dist.init_process_group("gloo")
        torch_ranks.keep_group()
        logger.warning("APT: no GPU here: %d processes talk through gloo instead of NCCL.", dist.get_world_size())


def without_gpu(training: Any) -> None:
    """Settings that the host's flags do not offer and without which a CPU cannot even try a run out."""
    if training.bf16 or training.tf32:
        training.bf16 = training.tf32 = False
        logger.warning("APT: no GPU here: float32 instead of the host's bf16 and tf32.")
    if training.num_gpus > 1 and not training.use_ddp:
        training.use_ddp = True  # accelerate runs DeepSpeed on accelerators only
        logger.warning("APT: no GPU here: the host's DDP (training.use_ddp) instead of DeepSpeed.")


def autocasts(training: Any) -> bool:
    """Whether a run computes under bfloat16 autocast; DeepSpeed casts the model itself."""
    return bool(training.bf16) and (training.num_gpus == 1 or training.use_ddp)


def check_sharding(training: Any) -> None:
    """Refuse ZeRO-3, which leaves a process with slices of the parameters.

    Raises:
        AptError: a digest over slices would call any VLM frozen, and the saved weights would not be whole.
    """
    if training.num_gpus > 1 and not training.use_ddp and training.deepspeed_stage == 3:
        raise AptError(
            "training.deepspeed_stage is 3: its processes hold slices of the parameters, so the proof that the VLM "
            "stayed frozen would look at nothing. Use stage 2 (the host's default) or DDP; the frozen VLM needs no "
            "optimizer state that sharding would save."
        )


def check_joined(trainer: Any) -> None:
    """
    Raises:
        AptError: several processes that would train apart without a word (met on a CPU, see `start_group`).
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if trainer.args.world_size != started:
        raise AptError(
            f"torchrun started {started} processes and the trainer knows {trainer.args.world_size}: each would train "
            "on its own. Set ACCELERATE_USE_CPU=true for a run without GPU."
        )
