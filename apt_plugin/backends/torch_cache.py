"""Cache entries as torch tensors: collated, taken out of a batch; and what a torch host draws when it makes them.

B batch
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apt_plugin.backends.torch_bytes import to_torch
from apt_plugin.cache import Cache, Key

PREFIX = "apt_cache."  # the cached arrays among a model's inputs


def seed_draws(number: int) -> None:
    """Every source of random numbers that a host's transforms may use."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def collate(cache: Cache, keys: Sequence[Key]) -> dict[str, Tensor]:
    """The entries of a batch: per field [B, longest of the batch, *tail], zero behind, and `<field>.length` [B]."""
    entries = [cache.entry(key) for key in keys]
    out: dict[str, Tensor] = {}
    for name, field in cache.fields.items():
        rows = [to_torch(entry[name], field.dtype) for entry in entries]
        out[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        out[f"{name}.length"] = torch.tensor([len(row) for row in rows])
    return out


def take_fields(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """A batch without its cached arrays, and those; None where it has none."""
    fields = {name.removeprefix(PREFIX): value for name, value in inputs.items() if name.startswith(PREFIX)}
    return {name: value for name, value in inputs.items() if not name.startswith(PREFIX)}, fields or None
