"""What openpi tells of a policy and its data before any verdict, JAX and PyTorch.

F frames   B (frame, instruction) pairs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from apt_plugin.backends import torch_evidence
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import loading, records
from apt_plugin.hosts.openpi.listen_models import JaxPolicy, TorchPolicy
from apt_plugin.hosts.openpi.optim import part_of
from apt_plugin.hosts.openpi.torch_model import part_of as torch_part_of
from apt_plugin.listen.causes.cause import some
from apt_plugin.listen.evidence import Arrived, Tensor
from apt_plugin.listen.hosted import HostEvidence


class OpenpiEvidence(HostEvidence):
    """Facts behind one `OpenpiListener`."""

    room = "--model.max-token-len"

    def tensors(self) -> Iterator[Tensor]:
        policy = self.listener.policy
        if isinstance(policy, TorchPolicy):
            return torch_evidence.tensors(policy.model, lambda name: torch_part_of(name) == "vlm")
        return _jax_tensors(policy)

    def arrived(self, frames: Sequence[int], texts: Sequence[str]) -> list[Arrived]:
        found = []
        for row in self.listener._rows(frames, texts):
            mask = np.asarray(row["tokenized_prompt_mask"], bool)
            ids = np.asarray(row["tokenized_prompt"])[mask].tolist()
            found.append(Arrived(tuple(ids), self._decoded(ids), len(mask)))
        return found

    def _decoded(self, ids: list[int]) -> str:
        for transform in self.listener.questions.data.model_transforms.inputs:
            inner = getattr(getattr(transform, "tokenizer", None), "_tokenizer", None)
            if hasattr(inner, "decode"):
                return str(inner.decode(ids))
        return ""

    def state(self) -> np.ndarray:
        rows = range(len(self.listener.frames))
        return np.stack([np.asarray(self.listener._rows([row], [""])[0]["state"], np.float32) for row in rows])


def _jax_tensors(policy: JaxPolicy) -> Iterator[Tensor]:
    for name, value in _flat(policy).items():
        array = np.asarray(value, np.float32)
        finite = bool(np.isfinite(array).all())
        low, high = (float(array.min()), float(array.max())) if finite else (0.0, 0.0)
        # One value throughout is looked for in vectors, which this host stacks over layers: not in matrices.
        shape = array.shape[1:] if array.ndim == 2 and "layers" in name and "scale" in name else array.shape
        yield Tensor(name, part_of(name) == "vlm", shape, low, high, 0.0, finite)


def _flat(policy: JaxPolicy) -> dict[str, Any]:
    return loading.flat(nnx.state(policy.model, nnx.Param).to_pure_dict())


def beside(own: JaxPolicy | TorchPolicy, base: JaxPolicy | TorchPolicy, where: str) -> Any:
    """See `listen.evidence.Base`.

    Raises:
        AptError: policies of two frameworks, or no base of this policy.
    """
    if isinstance(own, TorchPolicy) and isinstance(base, TorchPolicy):
        return torch_evidence.Beside(_torch_vlm(own), _torch_vlm(base), where)
    if isinstance(own, JaxPolicy) and isinstance(base, JaxPolicy):
        return JaxBeside(own, base, where)
    raise AptError(f"--base {where} is a {base.framework} checkpoint, the policy a {own.framework} one: name the same.")


def _torch_vlm(policy: TorchPolicy) -> dict[str, Any]:
    return {n: p for n, p in policy.model.named_parameters() if torch_part_of(n) == "vlm"}


class JaxBeside:
    """A base's parameters beside the policy's; the policy's functions take parameters as an argument."""

    def __init__(self, own: JaxPolicy, base: JaxPolicy, where: str):
        self._own = own
        self._mine, theirs = ({n: v for n, v in _flat(p).items() if part_of(n) == "vlm"} for p in (own, base))
        odd = [n for n, v in self._mine.items() if n not in theirs or theirs[n].shape != v.shape]
        if odd:
            raise AptError(f"--base {where} is no base of this policy: its VLM has no {some(odd)}.")
        self._base = {n: theirs[n] for n in self._mine}

    def digest(self) -> str:
        return records.vlm_digest(loading.unflat({n: v.astype(jnp.bfloat16) for n, v in self._base.items()}))

    def distance(self) -> float:
        off = size = 0.0
        for name, value in self._mine.items():
            base = np.asarray(self._base[name], np.float32)
            off += float(np.square(np.asarray(value, np.float32) - base).sum())
            size += float(np.square(base).sum())
        return (off / size) ** 0.5 if size else 0.0

    @contextmanager
    def inside(self) -> Iterator[None]:
        kept = self._own.state
        other = jax.tree.map(lambda leaf: leaf, kept)
        other.replace_by_pure_dict(
            loading.unflat({n: jnp.asarray(self._base[n], v.dtype) for n, v in self._mine.items()})
        )
        self._own.state = other
        try:
            yield
        finally:
            self._own.state = kept
