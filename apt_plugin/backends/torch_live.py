"""How many bytes of tensors live at once, counted without a device.

Every storage that an operation makes is added when it appears and taken off when nothing refers to it any more, which
is what an eager allocator does, fragmentation aside. On the meta device a model of any size is counted in megabytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from apt_plugin import freeze


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make inside the block: `now` and `peak`, in bytes."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._refs: dict[int, Any] = {}
        for tensor in known:
            self._refs[id(tensor.untyped_storage())] = weakref.ref(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._refs and self._refs[key]() is storage:
            return

        def gone(_ref: Any, key: int = key, size: int = size) -> None:
            self.now -= size
            if self._refs.get(key) is _ref:
                del self._refs[key]

        self._refs[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def bytes_of(parameters: Iterable[Tensor]) -> int:
    """Bytes of distinct tensors."""
    return sum({id(p): p.numel() * p.element_size() for p in parameters}.values())


def standing(model: nn.Module) -> dict[str, int]:
    """What a training run holds between steps, in bytes: weights, and AdamW's two moments of what trains.

    Gradients are made by the step and counted there. Nothing is kept for what does not train.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return {
        "frozen weights": bytes_of(p for p in model.parameters() if not p.requires_grad),
        "trained weights": bytes_of(trained),
        "optimizer": 2 * bytes_of(trained),
        "buffers": bytes_of(model.buffers()),
    }


def added(model: nn.Module) -> int:
    """Bytes that parameters of the recipe's own take in training: weights, gradients and two moments."""
    return 4 * bytes_of(p for name, p in model.named_parameters() if freeze.added(name) and p.requires_grad)


def peak_of(model: nn.Module, step: Any) -> int:
    """Bytes at the peak of one step (forward, backward, gradients left standing) above what stood before."""
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        step()
    return live.peak
