"""lerobot's steps and learning-rate schedule: which flags hold lengths in steps, and what they are unless written."""

from __future__ import annotations

from apt_plugin.run.flags import Flags

STEPS = 100_000
_COSINE = {"policy.scheduler_warmup_steps": 1_000, "policy.scheduler_decay_steps": 30_000}
# What a policy's own config says (tests/hosts/lerobot/test_launch.py compares them). GR00T's warm-up is a ratio of
# max_steps, whatever --steps is.
OF_POLICIES = {"pi05": _COSINE, "pi0": _COSINE, "groot": {"policy.max_steps": 10_000}}
# Of --use_policy_training_preset=false: there only where somebody writes them.
WRITTEN = ("scheduler.num_warmup_steps", "scheduler.num_decay_steps")


def lengths(flags: Flags) -> dict[str, int]:
    """Flag -> steps of the whole command."""
    family = (flags.get("policy.type") or "").partition("_")[0]
    found = {name: int(flags.get(name) or value) for name, value in OF_POLICIES.get(family, {}).items()}
    return found | {name: int(value) for name in WRITTEN if (value := flags.get(name)) is not None}
