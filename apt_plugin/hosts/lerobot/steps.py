"""Processor steps that a checkpoint names, looked at before the host builds them.

lerobot imports whatever class a saved processor names and calls it with the arguments in the file, so a checkpoint from
the hub can run any command. A step that the host, a plugin of it or we registered has a name in its registry.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.names import PREPROCESSOR

POSTPROCESSOR = "policy_postprocessor.json"


def check_steps(folder: Path, config: Any) -> None:
    """Refuse saved processors with a step that is not in the host's registry.

    Args:
        folder: a checkpoint; config: its policy config, whose family registers steps of its own.

    Raises:
        AptError: naming the file and the step.
    """
    from lerobot.processor import ProcessorStepRegistry

    family = type(config).__module__.replace("configuration_", "processor_")
    if importlib.util.find_spec(family) is not None:
        importlib.import_module(family)
    known = set(ProcessorStepRegistry.list())
    for name in (PREPROCESSOR, POSTPROCESSOR):
        if (folder / name).is_file():
            for step in _steps(folder / name):
                if step.get("registry_name") not in known:
                    what = step.get("registry_name") or step.get("class")
                    raise AptError(
                        f"{folder / name} holds the step {what!r}, which is not in lerobot's registry: opening it "
                        "would run code that the checkpoint chooses. If you trust the step, register it in a "
                        "lerobot_policy_* package (ProcessorStepRegistry.register) and save the processor anew."
                    )


def _steps(path: Path) -> list[dict[str, Any]]:
    value = files.read_json(path)
    steps = value.get("steps") if isinstance(value, dict) else None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise AptError(f"{path} is no saved processor (no list of steps): it was edited or cut.")
    return steps
