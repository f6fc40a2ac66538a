"""A policy as the comparison sees it: prefix, velocity, sampling. `PiBody` and `GrootBody` say how their host does it.

B batch   K noise draws   T action tokens   A action dimensions
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from lerobot.policies.common.flow_matching import euler_integrate
from torch import Tensor


class Body:
    """What both families share. `policy` is the host's policy, `model` its network; `horizon` T and `dims` A as the
    network pads them, `width` the robot's own A, `steps` of integration."""

    policy: Any
    model: Any
    gated: bool
    fusions: Any  # of a gated policy's last stage, else None
    horizon: int
    dims: int
    width: int
    steps: int
    language: tuple[str, ...]  # fields of a batch that the instruction decides, [B, ...] each

    def prefix(self, batch: dict[str, Tensor]) -> Any:
        """The prefix pass; gradients reach the VLM where it trains and where they are recorded at all."""
        raise NotImplementedError

    def features(self, batch: dict[str, Tensor]) -> np.ndarray:
        """What the VLM's image tower says of processed frames, pooled, without words: [B, C]."""
        raise NotImplementedError

    def ready(self, prefix: Any) -> Any:
        """What is left to do to a kept prefix at each step: nothing on π; GR00T has an adapter that trains."""
        return prefix

    def velocity(self, ready: Any, x: Tensor, time: Tensor, language: bool = True) -> Tensor:
        """x [B, K, T, A], time [B, K], 1 is noise -> [B, K, T, A]; `language` False closes the gates."""
        raise NotImplementedError

    def noise(self, *lead: int) -> Tensor:
        """The host's noise [*lead, T, A]."""
        raise NotImplementedError

    def gates(self) -> Tensor:
        """Every gate value, with gradient."""
        return torch.cat([self.fusions.at(site).gate.openness() for site in self.fusions.sites])

    @torch.no_grad()
    def sample(self, batch: dict[str, Tensor], blank: dict[str, Tensor] | None, scale: float = 1.0) -> Tensor:
        """Action chunks [B, T, A]. Guidance: v_without + scale (v_with - v_without), where "without" is closed gates on
        a gated policy, and the empty instruction (`blank`) on a stock one. Scale 1 is the host's own sampler."""
        self.policy.eval()
        if self.gated:
            recipe = self.model.apt_recipe
            self.model.apt_recipe = dataclasses.replace(recipe, guidance_scale=scale)
            try:
                return self.policy.predict_action_chunk(batch)
            finally:
                self.model.apt_recipe = recipe
        if scale == 1.0 or blank is None:
            return self.policy.predict_action_chunk(batch)
        told, untold = self.ready(self.prefix(batch)), self.ready(self.prefix(blank))

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            without = self.velocity(untold, x[:, None], time[:, None])[:, 0]
            return without + scale * (self.velocity(told, x[:, None], time[:, None])[:, 0] - without)

        count = len(batch[self.language[0]])
        return euler_integrate(velocity, self.noise(count), self.steps)[..., : self.width]
