"""Noise and time of flow matching, keyed by frame and step instead of by a global stream.

    B batch   K noise draws   T action tokens   A action dimensions

Two things follow. The loss of a batch does not depend on how many processes share it, nor on a resumed random
state. And an evaluation always draws the same: lerobot draws afresh, so that its held-out losses of two stages
differ by luck.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def draw(model: Any, batch: dict[str, Any], actions: Tensor, draws: int, step: int) -> tuple[Tensor, Tensor]:
    """The host's noise and time distributions, seeded per (frame, step).

    Args:
        model: the host's flow model with `sample_noise(shape, device)` and `sample_time(n, device)`.
        batch: may hold "index" [B], the frame's number in the data set; without it one stream serves the batch.
        actions: [B, T, A]; step: optimiser step, -1 in evaluation.

    Returns:
        noise [B, K, T, A] and time [B, K], float32 on the device of `actions`.
    """
    b = actions.shape[0]
    index = batch.get("index")
    if not isinstance(index, Tensor) or index.numel() != b:
        noise = model.sample_noise((b, draws, *actions.shape[1:]), actions.device)
        return noise, model.sample_time(b * draws, actions.device).reshape(b, draws)
    noises, times = [], []
    with torch.random.fork_rng(devices=[]):
        for frame in index.reshape(-1).tolist():
            torch.manual_seed(_seed(int(frame), step))
            noises.append(model.sample_noise((draws, *actions.shape[1:]), "cpu"))
            times.append(model.sample_time(draws, "cpu"))
    return torch.stack(noises).to(actions.device), torch.stack(times).to(actions.device)


def _seed(frame: int, step: int) -> int:
    """A 63-bit mix of both numbers (splitmix64), so that neighbours get unrelated streams."""
    x = (frame * 0x9E3779B97F4A7C15 + (step + 2) * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFFFFFFFFFF
    return (x ^ (x >> 31)) >> 1
