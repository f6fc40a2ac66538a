"""Files that are whole or absent, and weights that are refused before a tensor of them is used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from apt_plugin import files
from apt_plugin.errors import AptError
from tests import processes

SIZE = 1 << 20

# Rewrites one file for ever, with one letter per version, until it is killed; says when it has begun.
WRITER = """
import sys
from pathlib import Path
from apt_plugin import files
path = Path(sys.argv[1])
write = {write}
while True:
    for letter in b"ab":
        write(bytes([letter]) * {size})
    print(flush=True)
"""
ATOMIC = WRITER.format(size=SIZE, write="lambda data: files.write_bytes(path, data)")
PLAIN = WRITER.format(size=SIZE, write="path.write_bytes")


def seen_under_fire(path: Path, script: str, kills: int) -> tuple[set[str], int]:
    """What a reader meets while writers write and are killed: kinds of content, and the number of reads."""
    kinds, reads = set(), 0
    for number in range(kills):
        writer = processes.start([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        try:
            writer.stdout.readline()
            end = time.monotonic() + 0.1 * (1 + number / 3)  # not the same moment of the write each time
            while time.monotonic() < end or (not {"a", "b"} <= kinds and time.monotonic() < end + 30):  # a slow disk
                kinds.add(_kind(path.read_bytes()))
                reads += 1
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
        kinds.add(_kind(path.read_bytes()))
    return kinds, reads


def _kind(content: bytes) -> str:
    same = len(set(content)) == 1 and len(content) == SIZE
    return chr(content[0]) if same else "torn"


def test_a_reader_meets_the_old_or_the_new_file_even_under_sigkill(tmp_path: Path) -> None:
    """A cluster kills a job in the middle of its checkpoint; the record that was there before must still be there,
    whole, or the run cannot be resumed from either."""
    kinds, reads = seen_under_fire(tmp_path / "apt.json", ATOMIC, kills=5)
    assert kinds == {"a", "b"}, f"in {reads} reads"
    # What a killed writer leaves behind never has the file's own name, nor one that a glob for it finds.
    left = [p.name for p in tmp_path.iterdir() if p.name != "apt.json"]
    assert all(name.startswith(".apt.json.") and name.endswith(".tmp") for name in left)


def test_the_reader_above_would_notice(tmp_path: Path) -> None:
    """The same harness on a plain write, which truncates first: without this, the test above could pass by reading
    too seldom."""
    assert "torn" in seen_under_fire(tmp_path / "apt.json", PLAIN, kills=3)[0]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A value that is no JSON (NaN among the proofs) is noticed before the file is touched."""
    path = tmp_path / "deep" / "apt.json"
    files.write_json(path, {"a": 1})
    for bad in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            files.write_json(path, bad)
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["apt.json"]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=30)  # each one is an fsync
@given(value=_json)
def test_json_comes_back(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    """Every cut of a record, and bytes that are not text, end in one sentence that names the file."""
    path = tmp_path / "apt.json"
    with pytest.raises(AptError, match=r"apt\.json is missing"):
        files.read_json(path)
    whole = json.dumps({"recipe": {"vlm": "frozen"}, "steps": [1, 2]}).encode()
    for content in (*(whole[:cut] for cut in range(len(whole))), b"\xff\xfe" + whole):
        path.write_bytes(content)
        with pytest.raises(AptError, match=r"not valid JSON.*earlier checkpoint"):
            files.read_json(path)


# -- safetensors ------------------------------------------------------------------------------------------

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float16)}
GOOD = save(TENSORS, {"format": "pt"})


def check(path: Path, content: bytes, sha256: str | None = None) -> None:
    path.write_bytes(content)
    files.check_safetensors(path, sha256)


def test_good_weights_pass(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    check(path, GOOD)
    check(path, GOOD, files.sha256_of(path))
    check(path, save({}))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """A copy that ran out of disk has a valid header; lerobot's π loaders catch what follows, print it, and train
    from noise (its issue 4577)."""
    path = tmp_path / "model.safetensors"
    for cut in range(len(GOOD)):
        with pytest.raises(AptError, match=r"model\.safetensors (is truncated|has no readable)"):
            check(path, GOOD[:cut])
    with pytest.raises(AptError, match="truncated or padded"):
        check(path, GOOD + b"\0")
    path.unlink()
    with pytest.raises(AptError, match="is missing"):
        files.check_safetensors(path)


@settings(deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_refused(at: int, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tampered or rotten weights of the right size: only the recorded hash tells."""
    path = tmp_path_factory.mktemp("bits") / "model.safetensors"
    path.write_bytes(GOOD)
    recorded = files.sha256_of(path)
    bad = bytearray(GOOD)
    bad[at] ^= 1 << bit
    with pytest.raises(AptError):
        check(path, bytes(bad), recorded)


def test_changed_values_say_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    recorded = files.sha256_of(path)
    with pytest.raises(AptError, match=f"was changed after it was written.*recorded {recorded[:16]}"):
        check(path, GOOD[:-1] + b"\x01", recorded)


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 7, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",  # an LFS pointer
        b"<!DOCTYPE html><html>404</html>", b"PK\x03\x04" + b"\0" * 400, b"\xff" * 400, with_header(b"[]"),
        with_header(b"{"), with_header(b"\xff\xff"), with_header(b'{"a": 1}'), with_header(b'{"a": {}}'),
        with_header(b'{"a": {"data_offsets": []}}'), with_header(b'{"a": {"data_offsets": [0, "x"]}}'),
        with_header(b'{"a": {"data_offsets": null}}'),
        with_header(b'{"a": {"data_offsets": [0, ' + b"9" * 5000 + b"]}}"),
        with_header(b"[" * 100_000),
    ],
    ids=range(16),
)  # fmt: skip
def test_garbage_is_refused_in_our_words(content: bytes, tmp_path: Path) -> None:
    """What really lies where weights are expected: a Git LFS pointer, an error page, a torch pickle. A KeyError or
    an IndexError out of a header would not say which file, nor that it is no weights file."""
    with pytest.raises(AptError, match=r"model\.safetensors (is truncated|has no readable)"):
        check(tmp_path / "model.safetensors", content)


@settings(deadline=None, max_examples=300)
@given(header=st.binary(max_size=40) | _json.map(lambda v: json.dumps(v).encode()), rest=st.binary(max_size=20))
def test_no_header_crashes_the_check(header: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Passing or our own error, nothing else, whatever the bytes are."""
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    try:
        check(path, with_header(header) + rest)
    except AptError as error:
        assert "fuzz.safetensors" in str(error)  # noqa: PT017 (either outcome is fine, a third is not)
    else:
        assert set(json.loads(header)) <= {"__metadata__"} or rest  # empty, or a header that fits by luck


def test_the_saved_steps_of_a_run_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("9", "10", "last", "checkpoint-3", "checkpoint-x"):
        (tmp_path / name).mkdir()
    assert files.numbered(tmp_path) == [(9, tmp_path / "9"), (10, tmp_path / "10")]
    assert files.numbered(tmp_path, "checkpoint-") == [(3, tmp_path / "checkpoint-3")]
    assert files.numbered(tmp_path / "absent") == []
