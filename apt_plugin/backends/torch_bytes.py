"""Torch tensors as bytes and as numpy arrays, and safetensors' names of their types."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SAFE = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
TORCH = {name: dtype for dtype, name in SAFE.items()}


def as_bytes(tensor: Tensor) -> torch.Tensor:
    """Raw bytes of a tensor as uint8 on the CPU (numpy knows no bfloat16)."""
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as it is stored; BF16 travels as uint16 in numpy."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(torch.int16).numpy().view("<u2") if tensor.dtype == torch.bfloat16 else tensor.numpy()


def to_torch(array: np.ndarray, dtype: str) -> Tensor:
    """A stored array as a tensor of its own; `dtype` is safetensors' name."""
    tensor = torch.from_numpy(np.array(array.view(np.int16) if dtype == "BF16" else array))
    return tensor.view(TORCH[dtype]) if dtype == "BF16" else tensor
