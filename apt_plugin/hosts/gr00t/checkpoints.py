"""Checkpoint folders of a run: which are whole. Read without importing the host."""

from __future__ import annotations

import logging
from pathlib import Path

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.names import WEIGHTS
from apt_plugin.stages import read_record


def is_whole(folder: Path) -> bool:
    """Whether everything is there, unbroken: a kill during a write leaves less. The host writes its state last."""
    try:
        files.check_safetensors(folder / WEIGHTS, read_record(folder).weights)
        files.read_json(folder / "trainer_state.json")
    except AptError as error:
        logging.warning("APT: skipping %s: %s", folder, error)
        return False
    return True


def last_whole(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, by its step number; None without one."""
    if not run.is_dir():
        return None
    found = [(p.name.removeprefix("checkpoint-"), p) for p in run.iterdir() if p.name.startswith("checkpoint-")]
    steps = sorted(((int(step), p) for step, p in found if step.isdigit()), reverse=True)
    return next((p for _, p in steps if is_whole(p)), None)
