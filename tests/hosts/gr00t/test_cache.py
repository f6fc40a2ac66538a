"""Training from a feature cache by the host's own command: the same run, without videos and without the VLM."""

from __future__ import annotations

from tests import processes

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from apt_plugin.cache import Cache
from apt_plugin.cache_command import info
from apt_plugin.stages import read_record
from tests.hosts.gr00t import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # real host processes, half a minute of imports each

BUILD, VERIFY = (f"apt-cache-{does} gr00t.experiment.launch_finetune" for does in ("build", "verify"))
STILL = ("--modality-config-path", str(Path(__file__).with_name("still_images.py")))
BLIND = ("--modality-config-path", str(Path(__file__).with_name("no_images.py")))
# Both runs must draw the same numbers: the host's processor drops states from the stream that its crops draw from.
KEPT = ("--state-dropout-prob", "0.0", "--apt.prove", "false", "--apt.gap_every", "1")


def child(where, out, *more: str, program: str = "gr00t.experiment.launch_finetune", data: str = "data", base="base2",
          world: int = 1, environ: dict[str, str] | None = None):  # fmt: skip
    """One process of one stage (or `world` under torchrun)."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(world), "--master-addr", "127.0.0.1",
                "--master-port", str(29620 + world)]  # fmt: skip
    command = [
        sys.executable, *(torchrun if world > 1 else []), "-m", "apt_plugin.hosts.gr00t", *program.split(),
        "--base-model-path", str(base), "--dataset-path", data, "--embodiment-tag", tiny.TAG, "--output-dir", str(out),
        "--max-steps", "4", "--save-steps", "2", "--global-batch-size", "4", "--dataloader-num-workers", "0",
        "--num-shards-per-epoch", "10", "--episode-sampling-rate", "1.0", "--num-gpus", str(world), "--recipe", "apt",
        *more,
    ]  # fmt: skip
    environ = tiny.environment() | (environ or {})
    return processes.run(command, cwd=where, env=environ)


@pytest.fixture(scope="module")
def both(where):
    """Both stages by one command, plainly and from a cache."""
    plain = tiny.finetune(where, where / "plain", *STILL, *KEPT)
    assert plain.returncode == 0, plain.stderr[-3000:]
    light = tiny.finetune(where, where / "light", *BLIND, *KEPT, "--apt.cache", "cache", "--apt.cache_views", "0")
    assert light.returncode == 0, light.stderr[-3000:]
    return plain, light


def test_both_stages_from_a_cache_equal_training_without(where, both, capsys):
    """Dropout is on: the same numbers are drawn for tensors of the same shapes, and no video is opened."""
    assert both[1].stdout.count("a step without a VLM") == 8
    for stage in ("stage1", "stage2"):
        plain, light = (where / run / stage / "checkpoint-4" for run in ("plain", "light"))
        one, two = read_record(plain), read_record(light)
        for name in ("loss", *(["blank_gap_train"] if stage == "stage2" else [])):
            a, b = (record.curve.points(name)[1] for record in (one, two))
            with capsys.disabled():
                print(f"\n  {stage} {name}: {a} without, largest difference {np.abs(a - b).max():.2g}", end="")
            assert len(a) == 4
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)
        assert (one.vlm, one.vlm_start, one.layout) == (two.vlm, two.vlm_start, two.layout)
        first, second = (load_file(folder / "model.safetensors") for folder in (plain, light))
        assert first.keys() == second.keys()  # a whole checkpoint, the VLM's tensors under the host's own names
        assert max(float((first[n] - second[n]).abs().max()) for n in first) < 1e-5
    assert Cache(where / "cache/stage1").stamp["key"] == "frame"
    assert Cache(where / "cache/stage2").stamp["key"] == "frame and instruction"
    assert "18 of 18 entries" in info(where / "cache/stage1")


def test_a_cached_checkpoint_is_opened_by_the_host(where, both):
    """The server's way of loading, strict about what is missing."""
    from apt_plugin.hosts.gr00t import prove, register

    register()
    model = prove.load(where / "light/stage2/checkpoint-4")
    assert model.apt_vlm_digest() == read_record(where / "light/stage2/checkpoint-4").vlm


def test_a_cached_run_resumes(where, both, tmp_path):
    shutil.copytree(where / "light/stage1", tmp_path / "stage1")
    shutil.rmtree(tmp_path / "stage1/checkpoint-4")
    again = tiny.finetune(
        where, tmp_path, *BLIND, *KEPT, "--apt.cache", "cache", "--apt.cache_views", "0", "--apt.stage", "1",
        "--resume-from-checkpoint",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr[-3000:]
    record = read_record(tmp_path / "stage1/checkpoint-4")
    assert record.steps == 4
    assert len(record.curve.points("loss")[1]) == 4
    assert record.vlm == record.vlm_start


def test_augmentation_is_never_dropped_in_silence(where, tmp_path):
    """The host's crop is random whatever its flags say."""
    silent = child(where, tmp_path / "a", "--apt.stage", "1", "--apt.cache", str(tmp_path / "c"), program=BUILD)
    assert silent.returncode != 0
    assert re.search(r"augments images at random \(random_crop\).*--apt.cache_views 4", silent.stderr)
    assert not (tmp_path / "c").exists()


def test_augmented_views_are_stored_and_drawn_from(where, tmp_path):
    views = ("--apt.stage", "1", "--apt.cache", str(tmp_path / "c"), "--apt.cache_views", "2")
    built = child(where, tmp_path / "a", *views, program=BUILD)
    assert built.returncode == 0, built.stderr[-3000:]
    cache = Cache(tmp_path / "c/stage1")
    assert len(cache) == 36
    one, two = (cache.entry(key)["states.3"] for key in cache.where if key.frame == 5)
    assert not np.array_equal(one, two)
    trained = child(where, tmp_path / "b", *views)
    assert trained.returncode == 0, trained.stderr[-3000:]
    verified = child(where, tmp_path / "v", *views, program=VERIFY)
    assert verified.returncode == 0, verified.stderr[-3000:]
    assert "largest difference 0" in verified.stderr + verified.stdout  # a view depends on its key alone


def test_what_does_not_fit_is_refused_with_the_field(where, both, tmp_path):
    """A changed encoder, a swapped processor, other data, another choice; a flipped byte is found by verify."""
    cached = ("--apt.stage", "1", "--apt.cache", "cache", "--apt.cache_views", "0")
    other = tmp_path / "other"
    shutil.copytree(where / "base2", other)
    state = load_file(other / "model.safetensors")
    name = next(n for n in sorted(state) if n.startswith("backbone.") and n.endswith("weight"))
    state[name] = state[name] + 1e-3
    save_file(state, other / "model.safetensors", {"format": "pt"})
    refused = child(where, tmp_path / "1", *cached, base=other)
    assert refused.returncode != 0
    assert "encoder is" in refused.stderr

    swapped = tmp_path / "swapped"  # the host takes these sizes from the checkpoint, whatever its flags say
    shutil.copytree(where / "base2", swapped)
    config = json.loads((swapped / "processor_config.json").read_text())
    config["processor_kwargs"]["image_crop_size"] = [200, 200]
    (swapped / "processor_config.json").write_text(json.dumps(config))
    refused = child(where, tmp_path / "2", *cached, base=swapped)
    assert refused.returncode != 0
    assert re.search(r"processor\.image_crop_size is \[230, 230\] in the cache and \[200, 200\] here", refused.stderr)

    tiny.dataset(tmp_path / "data", episodes=3)
    refused = child(where, tmp_path / "3", *cached, data=str(tmp_path / "data"))
    assert refused.returncode != 0
    assert "dataset is" in refused.stderr or "lacks" in refused.stderr

    copy = tmp_path / "cache"
    shutil.copytree(where / "cache", copy)
    shard = copy / "stage1/shard-000001.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[-5] ^= 1
    shard.write_bytes(raw)
    done = processes.run(
        [sys.executable, "-m", "apt_plugin", "cache", "verify", str(copy)], env=tiny.environment(), cwd=where,
    )  # fmt: skip
    assert done.returncode == 1
    assert "shard-000001.safetensors: SHA-256" in done.stdout


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_a_cache_without_duplicate_work(where, both, tmp_path, world):
    """Byte for byte the cache of one process, every shard computed by one of them."""
    cached = ("--apt.stage", "1", "--apt.cache", str(tmp_path / "c"), "--apt.cache_views", "0")
    built = child(where, tmp_path / "a", *cached, program=BUILD, world=world)
    assert built.returncode == 0, built.stderr[-3000:]
    made = [json.loads(f"[{part}]") for part in re.findall(r"computed shards \[(.*?)\]", built.stderr)]
    assert len(made) == world
    assert sorted(shard for part in made for shard in part) == [0, 1, 2]
    for path in (where / "cache/stage1").iterdir():
        assert (tmp_path / "c/stage1" / path.name).read_bytes() == path.read_bytes(), path.name


def test_one_two_and_four_processes_take_the_same_steps(where, both, tmp_path, capsys):
    """Through the host's own engine (DDP on gloo), on the frames of one process's batches, from one cache."""
    tiny.base(tmp_path / "base", 2, dropout=0.0)  # the same VLM: the cache fits
    cached = ("--apt.stage", "1", "--apt.cache", "cache", "--apt.cache_views", "0", "--state-dropout-prob", "0.0",
              "--modality-config-path", str(Path(__file__).with_name("same_batches.py")))  # fmt: skip
    found = {}
    for world in (1, 2, 4):
        out = tmp_path / str(world)
        environ = {"APT_TEST_BATCHES": str(tmp_path / "batches")}
        done = child(where, out, *cached, base=tmp_path / "base", world=world, environ=environ)
        assert done.returncode == 0, done.stderr[-3000:]
        folder = out / "checkpoint-4"
        found[world] = read_record(folder).curve.points("loss")[1], load_file(folder / "model.safetensors")
    start = load_file(tmp_path / "base" / "model.safetensors")
    losses, weights = found[1]
    assert max(float((weights[n] - start[n]).abs().max()) for n in start) > 1e-4
    for world in (2, 4):
        apart = np.abs(found[world][0] - losses).max()
        moved = max(float((weights[n] - found[world][1][n]).abs().max()) for n in weights)
        with capsys.disabled():
            print(f"\n  {world} processes: losses {losses} differ by {apart:.2g}, weights by {moved:.2g}", end="")
        assert apart <= 1e-5
        assert moved <= 1e-5
