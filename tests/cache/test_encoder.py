"""The two commands of a run's encoder, on a toy: every host's `cache build` and `cache verify` are these."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apt_plugin.cache import Cache, Field, Key, encoder
from apt_plugin.errors import AptError

BF16 = {"x": Field("BF16", (2,))}


def as_bf16(values: np.ndarray) -> np.ndarray:
    return (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2")


@dataclass
class Toy:
    """Its features are the frame's number, off by `off`, in entries of `rows`."""

    folder: Path
    off: float = 0.0
    rows: int = 3
    stage: int = 1
    kind: str = "kv"
    places: dict = field(default_factory=lambda: {Key(n): n for n in range(20)})

    def stamp(self):
        return {"encoder": "abc", "augmentation": "none", "kind": self.kind}

    def fields(self):
        return BF16

    def compute(self, keys):
        return [{"x": as_bf16(np.full((self.rows, 2), key.frame + self.off))} for key in keys]


def test_what_was_made_is_the_same_when_compared(tmp_path):
    encoder.make(Toy(tmp_path))
    assert "20 of 20 entries there, 20 computed again: largest difference 0." in encoder.compare(Toy(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"off": 0.5}, r"differ by up to 0\.5: this is not the model"), ({"rows": 2}, r"x is \(3, 2\) there, \(2, 2\)"),
     ({"kind": "vision"}, "kind")],
)  # fmt: skip
def test_another_model_is_told(tmp_path, change, words):
    encoder.make(Toy(tmp_path))
    with pytest.raises(AptError, match=words):
        encoder.compare(Toy(tmp_path, **change))


def test_a_flipped_byte_is_told(tmp_path):
    encoder.make(Toy(tmp_path))
    shard = next(tmp_path.glob("shard-*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(AptError, match=shard.name):
        encoder.compare(Toy(tmp_path))


def test_nothing_to_cache_is_told(tmp_path):
    with pytest.raises(AptError, match="no frame to cache"):
        encoder.make(Toy(tmp_path, places={}))


def test_the_kind_is_the_first_that_fits_and_stays(tmp_path, monkeypatch):
    room = {"free": 0}
    monkeypatch.setattr(encoder.building.shutil, "disk_usage", lambda _: type("Disk", (), room)())

    def sample(kind):
        return list(map(Key, range(10))), [{"x": np.zeros(1000 if kind == "kv" else 10, np.uint8)}]

    room["free"] = 1 << 20
    assert encoder.cheapest(tmp_path, ("kv", "vision"), sample) == "kv"
    room["free"] = 15_000
    assert encoder.cheapest(tmp_path, ("kv", "vision"), sample) == "vision"
    monkeypatch.undo()
    encoder.make(Toy(tmp_path))
    assert encoder.cheapest(tmp_path, ("vision",), sample) == "kv"  # begun: the choice was made


@given(st.integers(0, 1 << 40), st.integers(0, 9))
def test_seeds_are_of_their_frame_and_view(frame, view):
    seed = encoder.seed_of(Key(frame, view))
    assert 0 <= seed < 1 << 32
    assert seed == encoder.seed_of(Key(frame, view))
    assert seed != encoder.seed_of(Key(frame, view + 1))


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_bfloat16_comes_back_as_numbers(values):
    exact = as_bf16(np.array(values))
    np.testing.assert_allclose(encoder.numbers(exact, "BF16"), values, rtol=2**-7, atol=1e-30)


def test_a_cache_that_another_process_finishes_is_compared_as_far_as_it_is(tmp_path):
    encoder.make(Toy(tmp_path))
    number = sorted(tmp_path.glob("shard-*.json"))[0]
    number.unlink()
    number.with_suffix(".safetensors").unlink()
    there = len(Cache(tmp_path))
    assert f"{there} of 20 entries there" in encoder.compare(Toy(tmp_path))
