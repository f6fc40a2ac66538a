"""Cache entries as torch tensors: collated, taken out of a batch, compared with what a model computes now.

B batch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apt_plugin.backends.torch_bytes import to_torch
from apt_plugin.cache import Cache, Key
from apt_plugin.cache.shards import Entry

PREFIX = "apt_cache."  # the cached arrays among a model's inputs
TRIED = 8  # batches, at most, that `recompute` looks at


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


def recompute(
    there: Cache, keys: Sequence[Key], batch: int, compute: Callable[[Sequence[Key]], Sequence[Entry]]
) -> tuple[list[str], float, int]:
    """Some entries computed again, in the batches in which they were computed.

    Args:
        keys: all that are there, in the cache's order; batch: entries per call, from the stamp.

    Returns:
        (what differs in shape, in words; largest difference of values; entries tried)
    """
    problems: list[str] = []
    worst, tried = 0.0, 0
    for first in range(0, len(keys), max(len(keys) // TRIED // batch, 1) * batch):
        group = keys[first : first + batch]
        for key, fresh in zip(group, compute(group), strict=True):
            stored: Mapping[str, np.ndarray] = there.entry(key)
            for name, array in fresh.items():
                if stored[name].shape != array.shape:
                    problems.append(f"{key.text()}: {name} is {stored[name].shape} there, {array.shape} here.")
                    continue
                dtype = there.fields[name].dtype
                a, b = (to_torch(part, dtype).double() for part in (stored[name], array))
                worst = max(worst, float((a - b).abs().max()) if a.numel() else 0.0)
            tried += 1
    return problems, worst, tried
