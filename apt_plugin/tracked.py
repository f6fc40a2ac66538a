"""What a host's own tracker (wandb, trackio, tensorboard) calls our scalars: the same on every host, behind its prefix.

Records keep the short names: a curve of an older checkpoint goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

NAMES = {
    "blank_gap_train": "apt/blank_gap",  # what blanking the instruction costs, on the training batch
    "blank_gap": "apt/blank_gap_held_out",  # on frames that the run holds out, where it does
    "gate_mean": "apt/gate_mean",
    "gate_max": "apt/gate_max",
    "retention": "apt/retention",  # where the VLM trains: does it tell instructions apart as when the stage began?
}
Value = TypeVar("Value")


def tracked(values: Mapping[str, Value]) -> dict[str, Value]:
    """Scalars of a step by the tracker's names; what is the host's own (loss, ...) keeps its name."""
    return {NAMES.get(name, name): value for name, value in values.items()}
