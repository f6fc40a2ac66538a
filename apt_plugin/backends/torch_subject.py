"""What every torch model does alike when `apt_plugin.proofs` measures it: gradients by name, optimiser steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from apt_plugin import freeze


def rounding(module: nn.Module, autocast: bool = False) -> float:
    """The coarsest rounding among a model's weights and what it computes in (`Subject.rounding`)."""
    kinds = {p.dtype for p in module.parameters() if p.is_floating_point()} | ({torch.bfloat16} if autocast else set())
    return max(torch.finfo(kind).eps for kind in kinds)


def gradients(module: nn.Module, counted: Callable[[str], bool] = lambda name: not freeze.added(name)) -> dict:
    """Parameter name -> gradient as float32 numpy, of the parameters that have one.

    Args:
        counted: which names; all but the plugin's own where it is not given.
    """
    named: dict[str, np.ndarray] = {
        name: p.grad.float().cpu().numpy().copy()  # on the CPU numpy would share memory that the next pass fills
        for name, p in module.named_parameters()
        if p.grad is not None and counted(name)
    }
    return named


def optimise(
    module: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[int], Tensor],
    steps: int,
    after: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Optimiser steps, then one more pass that only measures.

    Args:
        loss: step -> the loss of that step, a scalar.
        after: called after each optimiser step (a policy's own `update`).

    Returns:
        Fusion parameter that learns -> norm of its gradient in the last pass; 0.0 where it has none.
    """
    norms: dict[str, float] = {}
    for step in range(steps + 1):
        optimizer.zero_grad()
        loss(step).backward()
        norms = {
            name: 0.0 if p.grad is None else float(p.grad.float().norm())
            for name, p in module.named_parameters()
            if freeze.added(name) and p.requires_grad
        }
        if step < steps:
            optimizer.step()
            after()
    module.zero_grad(set_to_none=True)
    return norms
