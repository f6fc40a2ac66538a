"""Files written piece by piece are the files that safetensors itself writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from apt_plugin import tensorfile
from apt_plugin.errors import AptError


def test_the_bytes_are_safetensors_own(tmp_path: Path) -> None:
    """A checkpoint put together from two sources must have the hash of one written whole."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}.{kind}": rng.integers(0, 2, shape).astype(kind)
        for name in ("z", "a.b", "ü")
        for kind in ("f4", "f2", "i8", "u1", "bool", "f8", "i4")
        for shape in ((3, 5),)
    } | {"empty": np.zeros((0, 4), "f4"), "scalar": np.array(2, "f4")}
    save_file(arrays, tmp_path / "theirs", metadata={"format": "pt"})
    tensorfile.write(tmp_path / "ours", {n: tensorfile.of_array(a) for n, a in arrays.items()}, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    read = tensorfile.TensorFile(tmp_path / "theirs")
    for name, array in load_file(tmp_path / "ours").items():
        np.testing.assert_array_equal(read.array(name), array)
    (tmp_path / "ours").unlink()
    assert read.metadata == {"format": "pt"}


def test_a_source_that_gives_other_bytes_is_refused(tmp_path: Path) -> None:
    short = tensorfile.Tensor("F32", (4,), lambda: b"1234")
    with pytest.raises(AptError, match="gave 4 bytes, 16 were announced"):
        tensorfile.write(tmp_path / "x", {"a": short})
    assert not list(tmp_path.iterdir())
