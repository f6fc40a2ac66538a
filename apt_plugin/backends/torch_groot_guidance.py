"""Guidance in GR00T's sampling loop: v_prior + s (v_language - v_prior) from one model.

A closed gate is the prior, so both velocities come from the same weights on the same features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from apt_plugin.backends.torch_groot_dit import Features


@contextlib.contextmanager
def guided(head: Any, features: Features, scale: float) -> Iterator[None]:
    """v_prior + s (v_language - v_prior) inside the host's loop; s = 1 costs nothing.

    The decoder behind the transformer is not linear, so both streams are decoded before they are combined.
    """
    if scale == 1:
        yield
        return
    prior: dict[str, Tensor] = {}

    def behind_transformer(module: Any, args: tuple, kwargs: dict, _out: Any) -> None:
        prior["hidden"] = type(module).forward(module, *args, **{**kwargs, "image_mask": features.prior()})

    def behind_decoder(module: Any, args: tuple, out: Tensor) -> Tensor:
        closed = type(module).forward(module, prior["hidden"], *args[1:])
        return closed + scale * (out - closed)

    handles = [
        head.model.register_forward_hook(behind_transformer, with_kwargs=True),
        head.action_decoder.register_forward_hook(behind_decoder),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
