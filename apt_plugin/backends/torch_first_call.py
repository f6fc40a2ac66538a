"""What a host's own sampler makes of an observation, taken from the arguments of the first step that it would do."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch


class _EnoughError(Exception):
    """Ends a host's sampling loop once its prefix is known."""


def first_call(model: Any, name: str, run: Callable[[], Any]) -> dict[str, Any]:
    """The arguments of the first call of `model.name` while `run` runs, which is then ended."""
    signature, held = inspect.signature(getattr(model, name)), {}

    def keep(*args: Any, **kwargs: Any) -> None:
        held.update(signature.bind(*args, **kwargs).arguments)
        raise _EnoughError

    own = vars(model).get(name)
    object.__setattr__(model, name, keep)  # on this object; its class is left alone
    try:
        # not inference_mode: real-time chunking records a graph over later steps
        with torch.no_grad(), contextlib.suppress(_EnoughError):
            run()
    finally:
        object.__delattr__(model, name)
        if own is not None:
            object.__setattr__(model, name, own)
    return held
