"""Checkpoint folders of a run: which are whole, and that the host alone refuses them. Imports no host."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from apt_plugin import files, seal
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.names import CONFIG, PROCESSORS, WEIGHTS
from apt_plugin.run.child import refusal
from apt_plugin.stages import RECORD, Record, read_record, write_record

logger = logging.getLogger(__name__)
MODEL = "pretrained_model"


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint folder holds everything, unbroken: a SIGKILL during a write leaves less."""
    model, state = checkpoint / "pretrained_model", checkpoint / "training_state"
    try:
        record = read_record(model)
        adapter = model / "adapter_model.safetensors"
        files.check_safetensors(adapter if adapter.is_file() else model / WEIGHTS, record.weights)
        files.check_safetensors(state / "optimizer_state.safetensors")
        files.check_safetensors(state / "rng_state.safetensors")
        for path in (model / "train_config.json", state / "training_step.json"):
            files.read_json(path)
    except AptError as error:
        logger.warning("APT: skipping %s: %s", checkpoint, error)
        return False
    return True


def seal_processors(folder: Path) -> None:
    """Take the processors into the record, too: the host writes them last, into a checkpoint that is not settled."""
    if (folder / RECORD).is_file():
        record = read_record(folder)
        more = seal.seal(sorted(folder.glob(PROCESSORS)))
        write_record(folder, dataclasses.replace(record, sealed={**(record.sealed or {}), **more}))


def last_whole(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, by its step number; None without one."""
    return next((p for _, p in reversed(files.numbered(run / "checkpoints")) if is_whole(p)), None)


def openable(path: Path) -> Path:
    """The folder that the host can open: `path` itself, or the policy that the run there left last."""
    places = [f"{stage}checkpoints/last/{MODEL}" for stage in ("", "stage2/", "stage1/")]
    for place in ("", MODEL, f"last/{MODEL}", *places):
        if (path / place / CONFIG).is_file():
            return path / place
    return path


def stage_records(output: Path) -> dict[int, Record]:
    """Stage -> the record of its newest whole checkpoint, of a run in `output`."""
    found = {stage: last_whole(output / f"stage{stage}") for stage in (1, 2)}
    return {stage: read_record(path / "pretrained_model") for stage, path in found.items() if path is not None}


def refuses_without_plugin(folder: Path) -> tuple[bool, str]:
    """A fresh process of the host that never imports the plugin tries to open the checkpoint."""
    code = (
        "import sys, lerobot.policies.factory\n"
        "from lerobot.configs import PreTrainedConfig\n"
        "PreTrainedConfig.from_pretrained(sys.argv[1])\n"
    )
    return refusal(code, str(folder))
