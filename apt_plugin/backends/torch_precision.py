"""In which precision a model's weights are held while it computes under bfloat16 autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def hold_frozen(module: nn.Module) -> None:
    """Every weight in bfloat16: what never trains loses nothing that autocast would not take from it at each step."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)


def hold_trained(module: nn.Module) -> None:
    """Matrices in bfloat16, with them their gradients and AdamW's moments: a quarter of the bytes is the difference
    between a 24 GB card and none. Norms, biases and gates stay float32: they are few, and a step of the learning rate
    is lost in bfloat16 beside a value of 1.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16 if is_matrix(name, parameter) else torch.float32)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """GR00T's per-robot layers keep a table of biases `b` [robots, width], which is no matrix."""
    return parameter.dim() > 1 and not name.endswith((".b", ".bias"))
