"""Parameters of a torch module: digests, finiteness, loading with every shared tensor accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from apt_plugin import freeze
from apt_plugin.backends import torch_ties
from apt_plugin.backends.torch_absent import Vlm
from apt_plugin.backends.torch_bytes import as_bytes
from apt_plugin.stages import check_shared


def digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """Order-free SHA-256 over parameters; PEFT's wrapping of a frozen layer does not change it."""
    return freeze.digest(
        (name.replace(".base_layer.", "."), str(p.dtype), tuple(p.shape), as_bytes(p).numpy())
        for name, p in named
        if ".lora_" not in name
    )


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors, of those too that a cached run leaves out of memory."""
    absent = Vlm.of(module)
    return {name: tuple(p.shape) for name, p in module.state_dict().items()} | (absent.shapes if absent else {})


def first_non_finite(module: nn.Module) -> str | None:
    """Name of a parameter that holds NaN or infinity, or None."""
    for name, p in module.named_parameters():
        if not bool(torch.isfinite(p).all()):
            return name
    return None


def file_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header alone."""
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def aliases(module: nn.Module) -> dict[str, set[str]]:
    """name -> all names of the same tensor: safetensors stores tied weights once."""
    absent = Vlm.of(module)
    owners: dict[int, set[str]] = {}
    state = module.state_dict(keep_vars=True)
    for name, tensor in state.items():
        owners.setdefault(id(tensor), set()).add(name)
    return {name: owners[id(tensor)] for name, tensor in state.items()} | (absent.tied if absent else {})


def check_tree(module: nn.Module, stored: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """Every tensor of a checkpoint is in the module and the other way round: transformers only warns.

    Args:
        stored: name -> shape, as `file_shapes` gives it.

    Raises:
        AptError: naming what is left over.
    """
    own, tied = shapes(module), aliases(module)
    present = {other for name in stored if name in tied for other in tied[name]}
    differ = {name: (shape, own[name]) for name, shape in stored.items() if name in own and shape != own[name]}
    check_shared(set(own) - present, set(stored) - set(own), differ, where)


ROUNDING = 2.0**-7  # twice bfloat16's relative rounding: a host may hold weights in it for a while


def not_loaded(module: nn.Module, paths: Sequence[Path], rename: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Names of a module's tensors whose first row is not what the files hold, whoever loaded them.

    Args:
        paths: the files of one checkpoint; rename: name in a file -> name in the module.
    """
    stored = {rename.get(key, key): (path, key) for path in paths for key in file_shapes(path)}
    once = aliases(module)
    for name, names in torch_ties.declared(module).items():
        once[name] = once[name] | names
    left = []
    with ExitStack() as stack:
        files = {path: stack.enter_context(safe_open(path, framework="pt")) for path in paths}
        for name, held in module.state_dict().items():
            found = next((stored[n] for n in (name, *sorted(once[name])) if n in stored), None)
            if found is None or not _same(files[found[0]], found[1], held):
                left.append(name)
    return left


def _same(file: Any, key: str, held: Tensor) -> bool:
    stored = file.get_slice(key)
    if tuple(stored.get_shape()) != tuple(held.shape):
        return False
    row = (stored[:1], held[:1]) if held.dim() else (file.get_tensor(key), held)
    there, here = (each.detach().cpu().double() for each in row)
    return torch.allclose(here, there, rtol=ROUNDING, atol=0.0, equal_nan=True)


def load_shared(
    module: nn.Module, path: Path | Sequence[Path], rename: Mapping[str, str], skip: Iterable[str] = (),
    fresh: Iterable[str] = (), absent: Vlm | None = None, published: bool = False,
) -> list[str]:  # fmt: skip
    """Copy every tensor of `path` into `module`, after checking that nothing is left over on either side.

    Args:
        path: one file, or the shards of one checkpoint.
        rename: name in the file -> name in the module (identity where absent).
        skip: module names that keep their initial values on purpose (a fresh expert).
        fresh: module names that the file is known to lack (Stage 2's fusion).
        absent: tensors that stay in the file; checked as the others, and found in it from now on.
        published: weights of others, where of two tensors that the model's config ties one may be stored.

    Returns:
        Names that were loaded.

    Raises:
        AptError: missing, unexpected or differently shaped tensors; raised before any is copied.
    """
    skip, fresh = set(skip), set(fresh)
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    tied = aliases(module)
    if absent is not None:
        own |= absent.shapes
    paths = [path] if isinstance(path, Path) else list(path)
    stored = {rename.get(key, key): (file, key, shape) for file in paths for key, shape in file_shapes(file).items()}
    twins = (torch_ties.declared(module) | (absent.declared if absent else {})) if published else {}
    for name, names in twins.items():
        if name not in stored and (twin := next((n for n in names if n in stored), None)) is not None:
            stored[name] = stored[twin]
    present = {other for name in stored if name in tied for other in tied[name]}
    missing = set(own) - present - skip - fresh
    unexpected = set(stored) - set(own)
    differ = {n: (s, own[n]) for n, (_, _, s) in stored.items() if n in own and n not in skip and s != own[n]}
    check_shared(missing, unexpected, differ, paths[0] if len(paths) == 1 else paths[0].parent)
    state = module.state_dict()
    loaded = []
    for file in paths:
        with safe_open(file, framework="pt") as tensors, torch.no_grad():
            for name, (holder, key, _) in stored.items():
                if holder == file and name not in skip and name in state:
                    state[name].copy_(tensors.get_tensor(key))
                    loaded.append(name)
    if absent is not None:
        absent.locate(paths, rename, twins)
    return loaded
