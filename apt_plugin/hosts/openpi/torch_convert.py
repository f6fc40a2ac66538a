"""Fusion parameters of a JAX checkpoint for the PyTorch port: what the host's converter does not know of.

N fusion sites. JAX stacks them [N, ...] and multiplies from the right; torch keeps one module per expert layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def fusion_state(params: Any, sites: Sequence[int], prefix: str = "apt_fusion.") -> dict[str, Tensor]:
    """`apt_fusion` as a pure dict of arrays -> torch's state dict.

    Args:
        sites: the expert layers that a fusion follows (`fusion.fusion_sites`), in the order of the rows.
    """
    out: dict[str, Tensor] = {}
    for module, leaves in params.items():
        for name, stacked in leaves.items():
            rows = np.asarray(stacked, np.float32)
            for row, site in zip(rows, sites, strict=True):
                value = row.T if name == "kernel" else row
                key = "weight" if name == "kernel" else name
                out[f"{prefix}{site}.{module}.{key}"] = torch.from_numpy(np.ascontiguousarray(value))
    return out
