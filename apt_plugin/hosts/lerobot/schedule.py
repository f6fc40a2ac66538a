"""lerobot's steps and learning-rate schedule: which flags hold lengths in steps, and what they are unless written."""

from __future__ import annotations

from apt_plugin.hosts.lerobot.families import find
from apt_plugin.run.budget import count
from apt_plugin.run.flags import Flags

STEPS = 100_000
# Of --use_policy_training_preset=false: there only where somebody writes them.
WRITTEN = ("scheduler.num_warmup_steps", "scheduler.num_decay_steps")


def lengths(flags: Flags) -> dict[str, int]:
    """Flag -> steps of the whole command.

    Raises:
        AptError: no whole number.
    """
    family = find(flags.get("policy.type"))
    defaults = {} if family is None else family.schedule  # tests/hosts/lerobot/test_launch.py compares them
    found = {name: count(name, flags.get(name) or value) for name, value in defaults.items()}
    return found | {name: count(name, value) for name in WRITTEN if (value := flags.get(name)) is not None}
