"""A frozen module that is not in memory: its place in the model, its names and shapes, and where its tensors lie.

Training from a feature cache never runs the VLM. Its weights still belong to every checkpoint (contract 5), so they
are read from the file that they came from, tensor by tensor, when a digest or a checkpoint needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from apt_plugin import freeze, tensorfile
from apt_plugin.backends import torch_ties
from apt_plugin.backends.torch_bytes import SAFE, TORCH, as_bytes
from apt_plugin.errors import AptError


class Absent(nn.Module):
    """Stands where the module stood. Attributes are those of the module on the meta device, parameters none."""

    def __init__(self, module: nn.Module):
        super().__init__()
        object.__setattr__(self, "_meta", [module])  # in a list: not registered, so not moved, saved or averaged

    @property
    def module(self) -> nn.Module:
        return self._meta[0]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_meta"][0], name)

    def keep(self, name: str, module: nn.Module) -> None:
        """A part that is needed after all (rotary tables), real and moved with the model."""
        setattr(self, name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise AptError(
            "The VLM is not in memory: this run trains from a cache. To act, load the checkpoint without one."
        )


@dataclass
class Spec:
    """One tensor of an absent module."""

    shape: tuple[int, ...]
    dtype: torch.dtype  # as the model would hold it
    parameter: bool  # counts in digests, as in named_parameters()


@dataclass
class Vlm:
    """The tensors of a policy that are not in memory."""

    specs: dict[str, Spec]  # the policy's names, as state_dict() would have them
    tied: dict[str, set[str]]  # name -> all names of the same tensor
    sources: dict[str, tuple[tensorfile.TensorFile, str]] = field(default_factory=dict)
    declared: dict[str, set[str]] = field(default_factory=dict)  # the same by the model's config, see `torch_ties`
    # Names by which a checkpoint stores tied tensors; empty: the first, as safetensors' own torch writer keeps it.
    kept: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, policy: nn.Module, cast: torch.dtype | None = None) -> Vlm | None:
        """The absent modules of a policy; None when all is in memory.

        Args:
            cast: what floating tensors are cast to after loading (a host's own switch), None for as built.
        """
        specs: dict[str, Spec] = {}
        tied: dict[str, set[str]] = {}
        declared: dict[str, set[str]] = {}
        for path, absent in policy.named_modules():
            if isinstance(absent, Absent):
                parameters = {name for name, _ in absent.module.named_parameters()}
                owners: dict[int, set[str]] = {}
                for name, tensor in absent.module.state_dict(keep_vars=True).items():
                    dtype = cast if cast is not None and tensor.is_floating_point() else tensor.dtype
                    specs[f"{path}.{name}"] = Spec(tuple(tensor.shape), dtype, name in parameters)
                    owners.setdefault(id(tensor), set()).add(f"{path}.{name}")
                tied |= {name: names for names in owners.values() for name in names}
                for name, names in torch_ties.declared(absent.module).items():
                    declared[f"{path}.{name}"] = {f"{path}.{each}" for each in names}
        return cls(specs, tied, declared=declared) if specs else None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: spec.shape for name, spec in self.specs.items()}

    def locate(
        self, files: Sequence[Path], rename: Mapping[str, str],
        twins: Mapping[str, set[str]] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Find every tensor in the checkpoint, which stays mapped: it may be deleted while the run goes on.

        Args:
            rename: name in the files -> name in the policy (identity where absent).
            twins: name -> names of one tensor of which the files may hold one.

        Raises:
            AptError: a tensor that no file has, or has in another shape.
        """
        self.sources = {}
        for path in files:
            file = tensorfile.TensorFile(path)
            for key in file.header:
                name = rename.get(key, key)
                for own in self.tied.get(name, ()):
                    if file.shape(key) != self.specs[own].shape:
                        raise AptError(
                            f"{path} holds {name} as {file.shape(key)}, the model as {self.specs[own].shape}."
                        )
                    self.sources[own] = (file, key)
        for name in self.specs.keys() - self.sources.keys():
            found = next((self.sources[n] for n in twins.get(name, ()) if n in self.sources), None)
            self.sources |= {name: found} if found else {}
        if missing := sorted(self.specs.keys() - self.sources.keys()):
            raise AptError(f"{files[0]} lacks {len(missing)} tensors of the VLM (e.g. {missing[0]}).")

    def tensor(self, name: str) -> Tensor:
        """One tensor in the dtype of the model, on the CPU."""
        file, key = self.sources[name]
        raw = torch.frombuffer(bytearray(file.raw(key)), dtype=TORCH[file.dtype(key)])
        return raw.reshape(self.specs[name].shape).to(self.specs[name].dtype)

    def digest(self, here: Mapping[str, Tensor] = MappingProxyType({})) -> str:
        """`torch_params.digest` of these parameters and of those `here` (in memory), one read at a time."""
        names = sorted([*(name for name, spec in self.specs.items() if spec.parameter), *here])

        def items() -> Iterator[tuple]:
            for name in names:
                tensor = here[name] if name in here else self.tensor(name)
                yield name, str(tensor.dtype), tuple(tensor.shape), as_bytes(tensor).numpy()

        return freeze.digest_sorted(items())

    def stored(self) -> dict[str, tensorfile.Tensor]:
        """What a checkpoint holds of them: of tied names one, see `kept`."""
        out = {}
        for name, spec in self.specs.items():
            if name == self._stored(name):
                data = lambda name=name: as_bytes(self.tensor(name)).numpy().data  # noqa: E731
                out[name] = tensorfile.Tensor(SAFE[spec.dtype], spec.shape, data)
        return out

    def _stored(self, name: str) -> str:
        return min(self.tied[name] & self.kept or self.tied[name])

    def dropped(self) -> dict[str, str]:
        """Tied names that are not stored -> the one that is: safetensors notes them in the file's metadata.

        transformers, which knows its models' ties, notes nothing.
        """
        return {} if self.kept else {n: self._stored(n) for n in self.specs if n != self._stored(n)}


def merge(path: Path, vlm: Vlm) -> None:
    """Add the absent tensors to a checkpoint that was written without them."""
    own = tensorfile.TensorFile(path)
    tensors = {n: tensorfile.Tensor(own.dtype(n), own.shape(n), lambda name=n: own.raw(name)) for n in own.header}
    tensorfile.write(path, {**tensors, **vlm.stored()}, {**own.metadata, **vlm.dropped()})
