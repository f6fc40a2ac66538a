"""What is there when a cache is read or begun: changed bytes, all of it, a disk that cannot be written, no folder."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from apt_plugin import files
from apt_plugin.cache import Cache, build, building
from apt_plugin.cache.shards import shard_path
from apt_plugin.errors import AptError, last_words
from tests.cache import toy
from tests.cache.disk import on_a_small_disk


def read_all(cache: Cache) -> None:
    for key in cache.where:
        cache.entry(key)


@pytest.mark.parametrize("where", ["features", "key", "sidecar"])
def test_changed_bytes_are_refused_when_their_shard_is_first_read(tmp_path: Path, where: str) -> None:
    """They trained on silently: only `cache verify` looked."""
    build(tmp_path, toy.plan(50))
    path = shard_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    place = header["states" if where == "features" else "key/view"]["data_offsets"][0]
    if where == "sidecar":
        path.with_suffix(".json").write_text("{}")
    else:
        data[8 + int.from_bytes(data[:8], "little") + place] ^= 1
        path.write_bytes(data)
    with pytest.raises(AptError, match=r"shard-000001.*cache verify .* --repair"):
        read_all(Cache(tmp_path))


def test_a_shard_is_hashed_once(tmp_path: Path, monkeypatch) -> None:
    build(tmp_path, toy.plan(50))
    seen = Mock(side_effect=files.sha256_of)
    monkeypatch.setattr(files, "sha256_of", seen)
    cache = Cache(tmp_path)
    assert not seen.mock_calls
    for _ in range(2):
        for key in toy.keys(8):
            cache.entry(key)
    assert len(seen.mock_calls) == 2


def test_a_complete_cache_needs_no_room(tmp_path: Path, monkeypatch) -> None:
    """It was refused for lack of room to build what is there; nothing is computed either."""
    build(tmp_path, toy.plan(50))
    monkeypatch.setattr(building, "free_bytes", lambda folder: 0)
    build(tmp_path, toy.plan(50, compute=Mock(side_effect=AssertionError)))
    with pytest.raises(AptError, match=r"does not fit: .*encoder"):
        build(tmp_path, toy.plan(50, stamp={**toy.STAMP, "encoder": "xyz"}))


def _file(place: Path) -> str:
    place.write_text("")
    return "a file"


def _below_a_file(place: Path) -> str:
    place.parent.rmdir()
    place.parent.write_text("")
    return "a file"


def _link_to_nothing(place: Path) -> str:
    place.symlink_to(place.parent / "gone")
    return "a link to .*gone"


@pytest.mark.parametrize("there", [_file, _below_a_file, _link_to_nothing])
def test_a_place_that_is_no_folder_is_refused_in_a_sentence(tmp_path: Path, there) -> None:
    place = tmp_path / "a" / "cache"
    place.parent.mkdir()
    seen = there(place)
    with pytest.raises(AptError, match=rf"--apt\.cache is .*{seen}"):
        build(place, toy.plan(8))


READ_ONLY = """
import subprocess, sys
from pathlib import Path
from unittest.mock import Mock
from tests.cache import toy
from apt_plugin.cache import Cache, build, building
from apt_plugin.errors import AptError
building.RESERVE = 0  # of a disk of 4 MB
here = Path.cwd()
build(here / "whole", toy.plan(20))
(here / "begun").mkdir()
subprocess.run(["mount", "-o", "remount,ro", "none", here], check=True)
build(here / "whole", toy.plan(20, compute=Mock(side_effect=AssertionError)))
assert Cache(here / "whole").complete
for name in ("begun", "new"):
    try:
        build(here / name, toy.plan(20))
    except AptError as error:
        print(error)
print("FINISHED")
"""


def test_a_read_only_folder_is_read_and_not_built_in(tmp_path: Path) -> None:
    done = on_a_small_disk(tmp_path, READ_ONLY)
    assert "FINISHED" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("cannot be written") == 2


class _Frames:
    def __init__(self, cache: Cache):
        self.cache, self.keys = cache, list(cache.where)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> int:
        return len(self.cache.entry(self.keys[index]))


def test_a_worker_that_meets_changed_bytes_ends_in_the_sentence(tmp_path: Path) -> None:
    """PyTorch hands on a worker's error with its traceback as the message."""
    data = pytest.importorskip("torch.utils.data")
    build(tmp_path, toy.plan(20))
    path = shard_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(AptError) as caught:
        list(data.DataLoader(_Frames(Cache(tmp_path)), num_workers=1))
    assert "Traceback" in str(caught.value)
    words = last_words(caught.value)
    assert words.startswith("The cache in ")
    assert words.endswith("run the same command again.")
    assert last_words(AptError("two\nlines")) == "two\nlines"
