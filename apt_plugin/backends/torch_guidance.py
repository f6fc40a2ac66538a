"""Guidance for a stock policy: v_blank + s (v_words - v_blank), in the host's own sampler.

Both velocities are the host's own functions on prefixes that its own code made, one under the instruction and one
under an empty one. An action chunk costs one prefix more, and each step one pass of the expert more.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

from apt_plugin.backends.torch_first_call import first_call
from apt_plugin.backends.torch_groot_guidance import decoded_twice
from apt_plugin.errors import AptError

UNASKED = "This policy is asked for actions and nobody gave it the same observation without words."
READ = (
    "encoder_hidden_states",
    "image_mask",
    "backbone_attention_mask",
)  # what a GR00T's transformer reads of a prefix


class Guidance:
    """One scale for the policies of a process.

    Args:
        scale: s; 1 would be the policy itself, and a caller replaces nothing then.
    """

    def __init__(self, scale: float):
        self.scale = scale
        self._blank: Callable[[], Any] | None = None
        self._prefix: dict[str, Any] = {}
        self._asking = False  # the blank sampler runs, and is ended at its first step

    @property
    def active(self) -> bool:
        """Whether an action chunk is being made now."""
        return self._blank is not None

    @contextlib.contextmanager
    def acting(self, blank: Callable[[], Any]) -> Iterator[None]:
        """While an action chunk is made.

        Args:
            blank: starts the host's own sampler on the same observation under an empty instruction; it is ended at
                its first step.
        """
        before = self._blank, self._prefix
        self._blank, self._prefix = blank, {}
        try:
            yield
        finally:
            self._blank, self._prefix = before

    def _of_blank(self, model: Any, name: str) -> dict[str, Any]:
        if self._blank is None:
            raise AptError(UNASKED)
        if not self._prefix:
            # The noise of the chunk stays what it is without guidance: the second sampler draws apart.
            device = next(model.parameters()).device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                self._asking = True
                try:
                    self._prefix = first_call(model, name, self._blank)
                finally:
                    self._asking = False
        return self._prefix

    def step(self, host: Any) -> Any:
        """Around `denoise_step` of π0, π0.5 and SmolVLA.

        Raises (when called):
            AptError: outside `acting`.
        """
        signature = inspect.signature(host)

        @functools.wraps(host)
        def denoise_step(model: Any, *args: Any, **kwargs: Any) -> Any:
            given = signature.bind(model, *args, **kwargs).arguments
            here = {name: given[name] for name in ("x_t", "timestep")}
            without = host(model, **{**self._of_blank(model, "denoise_step"), **here})
            return without + self.scale * (host(model, *args, **kwargs) - without)

        return denoise_step

    def chunk(self, host: Any) -> Any:
        """Around `get_action` of a GR00T model.

        Raises (when called):
            AptError: outside `acting`.
        """

        @functools.wraps(host)
        def get_action(model: Any, *args: Any, **kwargs: Any) -> Any:
            head = model.action_head
            if self._asking:
                return host(model, *args, **kwargs)
            silent = self._of_blank(head.model, "forward")
            with decoded_twice(head, {name: silent[name] for name in READ if name in silent}, self.scale):
                return host(model, *args, **kwargs)

        return get_action
