"""Guidance in GR00T's sampling loop: both velocities from the same weights, step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


@contextlib.contextmanager
def decoded_twice(head: Any, other: Mapping[str, Any], scale: float) -> Iterator[None]:
    """v_other + s (v - v_other) inside the host's loop; s = 1 costs nothing.

    The decoder behind the transformer is not linear, so both streams are decoded before they are combined.

    Args:
        other: keyword arguments of the transformer that make the other velocity: closed gates, or the prefix of an
            empty instruction.
    """
    if scale == 1:
        yield
        return
    second: dict[str, Tensor] = {}

    def behind_transformer(module: Any, args: tuple, kwargs: dict, _out: Any) -> None:
        second["hidden"] = type(module).forward(module, *args, **{**kwargs, **other})

    def behind_decoder(module: Any, args: tuple, out: Tensor) -> Tensor:
        without = type(module).forward(module, second["hidden"], *args[1:])
        return without + scale * (out - without)

    handles = [
        head.model.register_forward_hook(behind_transformer, with_kwargs=True),
        head.action_decoder.register_forward_hook(behind_decoder),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
