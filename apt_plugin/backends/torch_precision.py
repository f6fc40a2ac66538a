"""In which precision a model's weights are held while it computes under bfloat16 autocast."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


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


class Exact:
    """Frozen float32 weights of a model that autocast computes with in bfloat16, held in it where that changes no bit.

    Models are published in bfloat16 and loaded in float32: most weights are equal to their own rounding. Autocast
    casts weights without gradients at each use, so every product has the operands that it had. What reads the model's
    state dict (a checkpoint) finds float32.

    Args:
        linear: modules whose matrices are wanted; tables: embeddings, whose output stays float32.
    """

    def __init__(self, model: nn.Module, linear: Iterable[nn.Module], tables: Iterable[nn.Module]):
        owned = [module.weight for module in linear if isinstance(module, nn.Linear)]
        self._held = {id(weight) for weight in owned if _hold(weight)}
        for table in tables:
            weight: Any = table.weight
            if id(weight) in self._held or _hold(weight):  # tied to the vocabulary head, or not
                self._held.add(id(weight))
                table.register_forward_hook(lambda _module, _args, out: out.float())
        self.names = {n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in self._held}
        # a function of its own: PyTorch writes an attribute on it
        model.register_state_dict_post_hook(lambda _model, state, prefix, _metadata: self._saved(state, prefix))
        held = {id(p): p.nbytes for p in model.parameters() if id(p) in self._held}
        logger.info(
            "APT: frozen weights are held in bfloat16, which they are equal to: %.2f GiB less.",
            sum(held.values()) / 2**30,
        )

    def _saved(self, state: dict, prefix: str) -> None:
        once: dict[int, Tensor] = {}  # tied tensors stay one
        for name in sorted(self.names):
            held = state[prefix + name]
            if held.data_ptr() not in once:
                once[held.data_ptr()] = _whole(held)
            state[prefix + name] = once[held.data_ptr()]

    def of(self, name: str, parameter: Tensor) -> Tensor:
        """A parameter of the model as it was before."""
        return _whole(parameter) if name in self.names else parameter


def _whole(held: Tensor) -> Tensor:
    """In the machine's memory: there is more of it."""
    return held.detach().to("cpu", torch.float32)


def _hold(weight: Any) -> bool:
    if weight.requires_grad or weight.dtype != torch.float32:
        return False
    half = weight.data.to(torch.bfloat16)
    if not weight.is_meta and not torch.equal(half.float(), weight.data):
        return False
    weight.data = half
    return True
