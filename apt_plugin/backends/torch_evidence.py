"""Facts about torch policies that `listen` looks at first: every tensor in numbers, a base's VLM beside the policy's.

B pairs   G key-value heads   S prefix tokens   C features
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apt_plugin.backends import torch_params
from apt_plugin.errors import AptError
from apt_plugin.listen import evidence
from apt_plugin.listen.causes.cause import some


def tensors(module: nn.Module, in_vlm: Callable[[str], bool]) -> Iterator[evidence.Tensor]:
    """Every parameter of `module`; `in_vlm`: the family's rule for its names."""
    with torch.inference_mode():
        for name, p in module.named_parameters():
            if p.is_floating_point() and p.numel() and p.device.type != "meta":
                yield _summary(name, in_vlm(name), p)


def _summary(name: str, vlm: bool, p: Tensor) -> evidence.Tensor:
    low, high = torch.aminmax(p)
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        return evidence.Tensor(name, vlm, tuple(p.shape), 0.0, 0.0, 0.0, finite=False)
    std = float(p.float().std(correction=0)) if p.dim() == 2 else 0.0  # of matrices alone anyone asks
    return evidence.Tensor(name, vlm, tuple(p.shape), float(low), float(high), std)


class Beside:
    """A base checkpoint's VLM beside the policy's: see `listen.evidence.Base`."""

    def __init__(self, own: Mapping[str, Tensor], base: Mapping[str, Tensor], where: str):
        """
        Args:
            own: the policy's VLM parameters; base: those of the checkpoint `where`, by the same names.

        Raises:
            AptError: other names or shapes: not a base of this policy.
        """
        odd = [n for n, p in own.items() if n not in base or base[n].shape != p.shape]
        if odd:
            raise AptError(
                f"--base {where} is no base of this policy: its VLM has no {some(odd)}. Name the checkpoint that "
                "training started from."
            )
        self._own, self._base = own, {n: base[n].detach().to("cpu", p.dtype) for n, p in own.items()}

    def digest(self) -> str:
        """In the precision in which the policy holds each tensor."""
        return torch_params.digest(self._base.items())

    def distance(self) -> float:
        off = size = 0.0
        for name, p in self._own.items():
            base = self._base[name].float()
            off += float((p.detach().cpu().float() - base).square().sum())
            size += float(base.square().sum())
        return (off / size) ** 0.5 if size else 0.0

    @contextmanager
    def inside(self) -> Iterator[None]:
        kept = {name: p.detach().to("cpu", copy=True) for name, p in self._own.items()}
        try:
            self._fill(self._base)
            yield
        finally:
            self._fill(kept)

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self._own.items():
                p.data.copy_(values[name])


def pooled_values(values: Sequence[Tensor], valid: Tensor) -> np.ndarray:
    """Values of every layer [B, G, S, C], mean over valid tokens [B, S], side by side: float32 [B, layers * G * C]."""
    weight = (valid.float() / valid.float().sum(-1, keepdim=True).clamp_min(1))[:, None, :, None]
    return torch.cat([(v.float() * weight).sum(2).flatten(1) for v in values], 1).cpu().numpy()


def pooled_features(features: Tensor, valid: Tensor) -> np.ndarray:
    """Features [B, S, C], mean over valid tokens [B, S]: float32 [B, C]."""
    return pooled_values([features[:, None]], valid)


def values_of(cache: Any) -> list[Tensor]:
    """The values of a host's key-value cache, per layer [B, G, S, C]: transformers' object, pairs, or SmolVLA's dict,
    which holds [B, S, G, C]."""
    if isinstance(cache, dict):
        return [layer["value_states"].transpose(1, 2) for _, layer in sorted(cache.items())]
    if layers := getattr(cache, "layers", None):
        return [layer.values for layer in layers]
    return [pair[1] for pair in cache]
