"""Checkpoint folders of a run: which are whole. Read without importing the host."""

from __future__ import annotations

import logging
from pathlib import Path

from apt_plugin import files, seal
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.names import PROCESSORS, WEIGHTS
from apt_plugin.stages import read_record

logger = logging.getLogger(__name__)


def is_whole(folder: Path) -> bool:
    """Whether everything is there, unbroken: a kill during a write leaves less. The host copies its processor last."""
    try:
        record = read_record(folder)
        files.check_safetensors(folder / WEIGHTS, record.weights)
        files.read_json(folder / "trainer_state.json")
        seal.check(record.sealed, [folder])
    except AptError as error:
        logger.warning("APT: skipping %s: %s", folder, error)
        return False
    return True


def last_whole(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, by its step number; None without one."""
    return next((p for _, p in reversed(files.numbered(run, "checkpoint-")) if is_whole(p)), None)


def openable(path: Path) -> Path:
    """The folder that a host can open: `path` itself, or the newest whole checkpoint of the run there.

    Raises:
        AptError: neither.
    """
    if (path / "config.json").is_file() and any((path / p).is_file() for p in PROCESSORS):
        return path
    found = last_whole(path) or last_whole(path / "stage2") or last_whole(path / "stage1")
    if found is None:
        raise AptError(
            f"{path} holds no checkpoint that can be opened: config.json, {WEIGHTS} and processor_config.json belong "
            "together. Name a checkpoint-<step> folder of a run."
        )
    return found
