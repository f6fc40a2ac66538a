"""safetensors files written piece by piece, and read in place, whatever their dtypes: no framework, no copy.

The package's own writer wants every tensor in memory at once, and its numpy reader knows no bfloat16 (here: uint16).
Same format, same order of tensors (wide dtypes first, then names), so that a merged file equals one written whole.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from apt_plugin import files
from apt_plugin.errors import AptError

# safetensors' own order of dtypes: later ones stand first in a file.
_ORDER: list[str] = "BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64".split()  # type: ignore[assignment]
NUMPY = {
    "BOOL": np.dtype(bool), "U8": np.dtype("u1"), "I8": np.dtype("i1"), "I16": np.dtype("<i2"), "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"), "I32": np.dtype("<i4"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor to be written."""

    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    data: Callable[[], Any]  # its bytes, asked for when their turn comes

    @property
    def size(self) -> int:
        return math.prod(self.shape) * NUMPY[self.dtype].itemsize


def of_array(array: np.ndarray, dtype: str | None = None) -> Tensor:
    """A tensor of a numpy array; `dtype` says what uint16 stands for (BF16)."""
    name = dtype or next(n for n, d in NUMPY.items() if d == array.dtype and n != "BF16")
    return Tensor(name, array.shape, lambda: np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write whole or not at all, one tensor in memory at a time."""
    with files.writing(path) as file:
        write_to(file, tensors, metadata)


def write_to(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    names = sorted(tensors, key=lambda name: (-_ORDER.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [end, end + tensor.size]}
        end += tensor.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # data start at a multiple of 8
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        data = memoryview(tensors[name].data()).cast("B")
        if data.nbytes != tensors[name].size:
            raise AptError(f"{name} gave {data.nbytes} bytes, {tensors[name].size} were announced.")
        file.write(data)


class TensorFile:
    """A safetensors file, mapped: reading a slice touches only its own pages. Stays readable when unlinked."""

    def __init__(self, path: Path):
        """Raises AptError: missing, truncated or padded."""
        files.check_safetensors(path)
        self.path = path
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.header: dict[str, dict[str, Any]] = header
        self._start = 8 + length

    def __contains__(self, name: str) -> bool:
        return name in self.header

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.header[name]["shape"])

    def dtype(self, name: str) -> str:
        return self.header[name]["dtype"]

    def array(self, name: str) -> np.ndarray:
        """A read-only view, no copy."""
        entry = self.header[name]
        begin, end = entry["data_offsets"]
        view = memoryview(self._map)[self._start + begin : self._start + end]
        return np.frombuffer(view, NUMPY[entry["dtype"]]).reshape(entry["shape"])

    def raw(self, name: str) -> memoryview:
        begin, end = self.header[name]["data_offsets"]
        return memoryview(self._map)[self._start + begin : self._start + end]
