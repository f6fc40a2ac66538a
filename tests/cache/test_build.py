"""Building a cache: killed, shared, on a full disk, and always to the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from apt_plugin import files
from apt_plugin.cache import Cache, Key, build, building, claims
from apt_plugin.cache.building import discard, verify
from apt_plugin.cache.shards import is_done
from apt_plugin.cache.stamp import read_stamp
from apt_plugin.errors import AptError
from tests import processes
from tests.cache import toy
from tests.cache.disk import on_a_small_disk

HERE = Path(__file__).resolve().parents[2]


def start(folder: Path, count: int, seconds: float, rank: int = 0, world: int = 1, log: Path | str = "-"):
    command = [sys.executable, "-m", "tests.cache.toy", folder, count, rank, world, seconds, log]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    return processes.start([str(c) for c in command], cwd=HERE, env=environment, stderr=subprocess.PIPE)


def wait(process: subprocess.Popen) -> None:
    assert process.wait(processes.HANG) == 0, process.stderr.read().decode()


@given(count=st.integers(1, 40), batch=st.integers(1, 9), views=st.integers(1, 3), words=st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_is_read_is_what_was_computed(tmp_path_factory, count: int, batch: int, views: int, words: bool) -> None:
    folder = tmp_path_factory.mktemp("c")
    keys = toy.keys(count, views, words)
    build(folder, toy.plan(count, keys=keys, batch=batch))
    cache = Cache(folder)
    assert cache.complete
    assert len(cache) == len(keys)
    for key in keys:
        want, have, padded = toy.entry(key), cache.entry(key), cache.padded(key)
        for name, array in want.items():
            np.testing.assert_array_equal(have[name], array)
            np.testing.assert_array_equal(padded[name][: len(array)], array)
            assert int(padded[f"{name}.length"]) == len(array)
            assert not padded[name][len(array) :].any()
    with pytest.raises(AptError, match=r"lacks 1 of the 1 entries"):
        cache.entry(Key(10**9))


def test_a_shard_is_a_safetensors_file(tmp_path: Path) -> None:
    """The files are read by anybody: what is ours is the order of writing, not the format."""
    build(tmp_path, toy.plan(10, fields={"place": toy.FIELDS["place"]}))
    stored = load_file(tmp_path / "shard-000000.safetensors")
    assert stored["key/frame"].tolist() == [0, 7, 14, 21]
    np.testing.assert_array_equal(stored["place"][0], toy.entry(Key(0))["place"][0])


@pytest.mark.slow
def test_a_build_killed_20_times_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path / "whole", toy.plan(200))
    folder, rng, kills = tmp_path / "killed", random.Random(0), 0
    while kills < 20:
        process = start(folder, 200, 0.02)
        folder.mkdir(exist_ok=True)
        before = len(list(folder.iterdir()))
        while process.poll() is None and len(list(folder.iterdir())) == before:
            time.sleep(0.002)  # it has begun to write
        time.sleep(rng.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            kills += 1
        if len(list(folder.glob("shard-*.json"))) > 9:  # of 13: nearly finished too early: take some of it away again
            for path in rng.sample(sorted(folder.glob("shard-*")), 6):
                path.unlink()
    wait(start(folder, 200, 0.0))
    assert toy.contents(folder) == toy.contents(tmp_path / "whole")


def test_the_sidecar_of_a_deleted_shard_does_not_vouch_for_the_next(tmp_path: Path, monkeypatch) -> None:
    """Killed between the two files, the rewritten shard passed for done beside the sidecar of the deleted one."""
    build(tmp_path, toy.plan(40))
    (tmp_path / "shard-000001.safetensors").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, toy.plan(40))
    assert not is_done(tmp_path, 1)
    build(tmp_path, toy.plan(40))
    assert is_done(tmp_path, 1)


@pytest.mark.slow
def test_two_processes_build_together_without_double_work(tmp_path: Path) -> None:
    build(tmp_path / "whole", toy.plan(240))
    together = [start(tmp_path / "two", 240, 0.02, rank, 2, tmp_path / f"log{rank}") for rank in range(2)]
    for process in together:
        wait(process)
    assert toy.contents(tmp_path / "two") == toy.contents(tmp_path / "whole")
    logs = [(tmp_path / f"log{rank}").read_text().split() for rank in range(2)]
    done = Counter(frame for log in logs for frame in log[1::2])
    sample = {str(7 * i) for i in range(4)}  # each process computes one batch to estimate the size
    assert all(times == 1 for frame, times in done.items() if frame not in sample)
    assert min(len(log) for log in logs) > 0.25 * max(len(log) for log in logs)


def test_a_living_process_keeps_its_claim_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    """Only the kernel knows whether a process lives: its number alone may belong to a later one."""
    build(tmp_path, toy.plan(8))
    sleeper = processes.start(["sleep", "60"])
    lock = claims.lock_path(tmp_path, 5)
    owner = {"host": socket.gethostname(), "pid": sleeper.pid, "born": claims.born(sleeper.pid)}
    lock.write_text(json.dumps(owner))
    assert claims.take(tmp_path, 5) is None
    lock.write_text(json.dumps(owner | {"born": "1"}))  # the number was used again
    assert claims.take(tmp_path, 5) is not None
    lock.write_text(json.dumps(owner))
    sleeper.kill()
    sleeper.wait()
    taken = claims.take(tmp_path, 5)
    assert taken is not None
    taken.release()
    lock.write_text(json.dumps(owner | {"host": "another"}))
    assert claims.take(tmp_path, 5) is None
    os.utime(lock, (time.time() - 2 * claims.STALE,) * 2)
    assert claims.take(tmp_path, 5) is not None


def test_two_writers_of_one_shard_write_the_same_bytes(tmp_path: Path) -> None:
    """A claim may be lost on a network disk; then two write, and nothing is corrupted."""
    build(tmp_path, toy.plan(30))
    before = toy.contents(tmp_path)
    for path in tmp_path.glob("shard-000001*"):
        path.unlink()
    build(tmp_path, toy.plan(30))
    assert toy.contents(tmp_path) == before


def test_verify_finds_a_flipped_byte_and_the_next_build_mends_it(tmp_path: Path) -> None:
    build(tmp_path, toy.plan(50))
    whole = toy.contents(tmp_path)
    assert verify(tmp_path)[0] == []
    rng = random.Random(1)
    for path in sorted(tmp_path.glob("shard-*.safetensors")):
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        problems, _ = verify(tmp_path)
        assert len(problems) == 1, path
        assert path.name.split(".")[0] in problems[0]
        discard(tmp_path, problems)
        build(tmp_path, toy.plan(50))
    assert toy.contents(tmp_path) == whole


def test_the_disk_is_asked_before_the_first_byte(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(building, "free_bytes", lambda folder: building.RESERVE + 100)
    with pytest.raises(AptError, match=r"does not fit .*50 entries of .* take"):
        build(tmp_path / "c", toy.plan(50))
    assert not (tmp_path / "c").exists()


FULL = """
import sys
from pathlib import Path
from tests.cache import toy
from apt_plugin.cache import build, Cache, building
from apt_plugin.cache.building import verify
from apt_plugin.errors import AptError
import numpy as np
building.RESERVE = -(1 << 30)  # the estimate says yes: the disk fills up all the same
from apt_plugin.cache import Field
def compute(keys): return [{"x": np.full((3000, 4), key.frame, "<f4")} for key in keys]
plan = toy.plan(64, fields={"x": Field("F32", (4,))}, compute=compute)
folder = Path(sys.argv[1]) / "c"
try:
    build(folder, plan)
except AptError as error:
    print(error)
cache = Cache(folder)
assert 0 < len(cache) < 64 and not cache.complete
assert verify(folder)[0] == [], verify(folder)
for key in cache.where: assert (cache.entry(key)["x"] == key.frame).all()
assert not [p.name for p in folder.iterdir() if p.name.startswith(".")], list(folder.iterdir())
(Path(sys.argv[1]) / "ballast").unlink()
build(folder, plan)
assert Cache(folder).complete
print("FINISHED")
"""


def test_a_full_disk_leaves_a_cache_that_is_used_and_goes_on(tmp_path: Path) -> None:
    done = on_a_small_disk(tmp_path, FULL)
    assert "FINISHED" in done.stdout, done.stdout + done.stderr
    assert "is full after" in done.stdout
    assert "run the same command again" in done.stdout


@pytest.mark.parametrize(
    ("change", "field"),
    [({"encoder": "xyz"}, "encoder"), ({"processor": {"size": 256}}, r"processor\.size"), ({"host": "toy 2"}, "host"),
     ({"augmentation": {"views": 3}}, "augmentation")],
)  # fmt: skip
def test_another_stamp_is_refused_by_its_field(tmp_path: Path, change: dict, field: str) -> None:
    build(tmp_path, toy.plan(10))
    before = toy.contents(tmp_path)
    with pytest.raises(AptError, match=rf"does not fit: .*{field}.* in the cache and .* here"):
        build(tmp_path, toy.plan(10, stamp={**toy.STAMP, **change}))
    assert toy.contents(tmp_path) == before


def test_another_order_of_frames_is_refused(tmp_path: Path) -> None:
    """Two processes that number the frames differently would write one shard with different contents."""
    build(tmp_path, toy.plan(10))
    with pytest.raises(AptError, match=r"order is"):
        build(tmp_path, toy.plan(10, keys=toy.keys(10)[::-1]))


def test_a_resumed_build_keeps_the_batch_it_began_with(tmp_path: Path) -> None:
    """Rounding depends on the batch: another one would give other bytes."""
    build(tmp_path, toy.plan(20, batch=4))
    for path in tmp_path.glob("shard-000002*"):
        path.unlink()
    build(tmp_path, toy.plan(20, batch=5))
    assert read_stamp(tmp_path)["batch"] == 4
    assert len(Cache(tmp_path)) == 20


def test_a_failing_encoder_leaves_no_claim_behind(tmp_path: Path) -> None:
    calls = []

    def compute(keys):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return [toy.entry(key) for key in keys]

    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path, toy.plan(40, compute=compute))
    assert not list(tmp_path.glob(".*"))
    build(tmp_path, toy.plan(40))
    assert Cache(tmp_path).complete


def test_a_killed_write_leaves_no_file_after_the_next(tmp_path: Path) -> None:
    """A SIGKILL between open and rename used to leave `.name.pid.tmp` for ever."""
    script = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom apt_plugin import files\n"
        "with files.writing(Path(sys.argv[1])) as file:\n    file.write(b'half')\n    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "apt.json"
    done = processes.run([sys.executable, "-c", script, str(path)], env={**os.environ, "PYTHONPATH": str(HERE)})
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    files.write_json(path, {"whole": True})
    assert [p.name for p in tmp_path.iterdir()] == ["apt.json"]
