"""Processor steps that a checkpoint names, looked at before the host builds them.

lerobot imports whatever class a saved processor names and calls it with the arguments in the file, so a checkpoint from
the hub can run any command. A step that the host, a plugin of it or we registered has a name in its registry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.names import PREPROCESSOR

POSTPROCESSOR = "policy_postprocessor.json"


def check_steps(folder: Path) -> None:
    """Refuse saved processors with a step that is not in the host's registry.

    Args:
        folder: a checkpoint; the package of its policy has been imported, as its config was read.

    Raises:
        AptError: naming the file and the step.
    """
    from lerobot.policies import factory  # noqa: F401  # the package of each policy registers its steps
    from lerobot.processor import ProcessorStepRegistry

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
