"""What a forward pass does not keep for the backward pass, which computes it again. Gradients are equal to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

_keeping = False


def recomputed(function: Callable, *args: Any, random: bool = False) -> Any:
    """Call; where gradients are recorded, keep the arguments alone.

    PyTorch stops computing again at the last tensor that the backward pass asks for: a product at the function's end
    is computed once.

    Args:
        random: the function draws random numbers (dropout), and must draw the same ones again.
    """
    if _keeping or not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=random)


def recomputed_unless(keep: bool, function: Callable, *args: Any, random: bool = False) -> Any:
    """`recomputed`, for a part of a layer; `keep`: the layer is computed again as a whole, or not at all."""
    # a compiler chooses itself what it keeps
    return function(*args) if keep or torch.compiler.is_compiling() else recomputed(function, *args, random=random)


@contextmanager
def everything_kept() -> Iterator[None]:
    """Inside, nothing is computed twice: what a cost is compared with."""
    global _keeping
    before, _keeping = _keeping, True
    try:
        yield
    finally:
        _keeping = before
