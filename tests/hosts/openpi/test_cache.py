"""The feature cache in openpi's own JAX trainer, on a real LeRobot data set: cached_runs.py makes the runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apt_plugin import cache_command
from apt_plugin.cache import Cache, Key
from tests import processes
from tests.hosts.openpi.test_round_trip import (
    environment,
    pytestmark,  # noqa: F401
)

MODULE = "tests.hosts.openpi.cached_runs"


def process(root: Path, *arguments: str, **more: str) -> subprocess.Popen:
    more = {"HF_LEROBOT_HOME": str(root / "data"), "APT_TEST_FRAMES": "1", "HF_HUB_OFFLINE": "1"} | more
    return processes.start(
        [sys.executable, "-W", "ignore", "-m", *arguments], cwd=root, env=environment(root, **more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    return out, err


def result(process: subprocess.Popen) -> dict:
    out, _ = finished(process)
    return json.loads(next(line for line in out.splitlines() if line.startswith("RESULT ")).removeprefix("RESULT "))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("openpi_cache")
    finished(process(root, "tests.hosts.openpi.frames", "local/toy"))
    return root


@pytest.fixture(scope="module")
def runs(root):
    return result(process(root, MODULE, str(root), "all", APT_TEST_STILL="1"))


@pytest.mark.parametrize("stage", [1, 2])
def test_a_cached_run_takes_the_steps_of_one_without(runs, stage):
    plain, cached = runs["plain"][stage - 1], runs["kv"][stage - 1]
    for name, values in plain["curves"].items():
        np.testing.assert_allclose(cached["curves"][name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    assert len(plain["curves"]["loss"]) == 3
    assert ("gate_mean" in plain["curves"]) == (stage == 2)


def test_its_checkpoints_are_whole_though_its_steps_hold_no_vlm(runs, root):
    assert [run["vlm"] for run in runs["kv"]] == [run["vlm"] for run in runs["plain"]]
    assert [run["layout"] for run in runs["kv"]] == [run["layout"] for run in runs["plain"]]


def test_a_resumed_cached_run_goes_on(runs):
    """By the frames that come next in its order (openpi itself starts that anew)."""
    resumed, whole = runs["resumed"], runs["kv"][0]
    assert resumed["steps"] == 3
    assert resumed["vlm"] == whole["vlm"]
    np.testing.assert_allclose(resumed["curves"]["loss"], whole["curves"]["loss"], rtol=1e-6)


def test_image_tokens_give_the_same_steps_through_the_language_model(runs):
    np.testing.assert_allclose(
        runs["vision"]["curves"]["loss"], runs["plain"][0]["curves"]["loss"], rtol=1e-5, atol=1e-6
    )


def test_views_are_augmented_and_depend_on_frame_and_view_alone(runs, root):
    one, two = (Cache(root / name / "stage1") for name in ("views", "views_again"))
    assert one.stamp["augmentation"]["views"] == 2
    assert len(one) == 2 * 24
    first, other = one.entry(Key(3, 0))["k"], one.entry(Key(3, 1))["k"]
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_array_equal(first, two.entry(Key(3, 0))["k"])
    assert np.isfinite(runs["from_views"]["curves"]["loss"]).all()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("augmentation", "augmentation"),
        ("nobody chose", "augments images at random"),
        ("kind", "kind is 'kv'"),
        ("stage", "holds no cache"),
        ("transform", "processor"),
        ("encoder", "encoder is"),
    ],
)
def test_another_run_is_refused_by_what_differs(runs, what, words):
    assert words in runs["refused"][what]


def test_keys_follow_the_words_in_stage_2_alone(runs, root):
    one, two = (Cache(root / "kv" / f"stage{stage}") for stage in (1, 2))
    assert {key.words for key in one.where} == {b""}
    assert len({key.words for key in two.where}) == 2  # the set has two tasks
    spoken = [two.entry(key)["spoken"].sum() for key in two.where]
    assert min(spoken) > 0
    assert not any(one.entry(key)["spoken"].any() for key in one.where)


def test_verify_finds_a_flipped_byte(runs, root):
    folder = root / "views_again"
    assert cache_command.main(["verify", str(folder)]) == 0
    shard = sorted((folder / "stage1").glob("shard-*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    assert cache_command.main(["verify", str(folder)]) == 1
    assert "24 of 24" in cache_command.info(root / "kv" / "stage1")


@pytest.fixture(scope="module")
def shared(root):
    """One cache, by two processes at once."""
    folder = root / "shared"
    both = [process(root, MODULE, str(root), "build", str(folder)) for _ in range(2)]
    return folder, [finished(one)[1] for one in both]


def test_two_builders_share_the_work_without_doing_any_of_it_twice(shared, runs, root):
    folder, logs = shared
    done = [
        [int(n) for n in re.search(r"computed shards \[([\d, ]*)\]", log)[1].split(",") if n.strip()] for log in logs
    ]
    assert sorted(done[0] + done[1]) == list(range(len(done[0]) + len(done[1])))
    for path in sorted((folder / "stage1").glob("shard-*.safetensors")):
        assert path.read_bytes() == (root / "kv" / "stage1" / path.name).read_bytes()


def test_one_two_and_four_devices_take_the_same_steps(shared, root):
    folder, _ = shared
    losses = {}
    for count in (1, 2, 4):
        flags = f"--xla_force_host_platform_device_count={count}"
        found = result(process(root, MODULE, str(root), "train", str(folder), XLA_FLAGS=flags))
        assert found["devices"] == count
        losses[count] = found["curves"]["loss"]
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)
    np.testing.assert_allclose(losses[4], losses[1], rtol=1e-5)
