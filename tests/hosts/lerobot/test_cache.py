"""Training from a feature cache in lerobot: the same run, without images and without the VLM."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from apt_plugin.cache import Cache
from apt_plugin.cache_command import info
from apt_plugin.errors import AptError
from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets, tiny
from tests.hosts.lerobot.cached_runs import Runs, model, same


@pytest.fixture(scope="module")
def groot(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A raw GR00T with dropout on, in the folder where the host's processor looks for its tokenizer."""
    from tests.hosts.lerobot import tiny_groot

    root = tmp_path_factory.mktemp("groot")
    vlm = tiny_groot.vlm_folder(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return {"root": root, "base": tiny_groot.base(root / "base", vlm)}


@pytest.fixture
def runs(request, data, tok: str, plain, groot, tmp_path: Path, monkeypatch) -> Runs:
    monkeypatch.chdir(groot["root"])
    return Runs(getattr(request, "param", "pi05"), data["labelled"], tok, plain, groot, tmp_path)


KINDS = [("pi05", "kv"), ("pi05", "vision"), ("pi0", "kv"), ("groot", "auto")]
EVAL = {"dataset__eval_split": 0.3, "eval_steps": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "kind"), KINDS, indirect=["runs"])
def test_both_stages_from_a_cache_equal_training_without(runs: Runs, kind: str, no_decoding) -> None:
    """Dropout is on in GR00T: the same numbers must be drawn for tensors of the same shapes."""
    cached = [f"--policy.recipe.cache={runs.out / 'cache'}", f"--policy.recipe.cache_kind={kind}"]
    plain = runs.train("plain", **EVAL)
    runs.cache("build", *cached, **EVAL)
    runs.cache("verify", *cached, **EVAL)
    with no_decoding():
        light = runs.train("light", *cached, **EVAL)
    same(plain, light)
    # Stage 2, from the cached prior: the cached run's checkpoint is a whole one.
    more = {"prior": model(light), **EVAL}
    words = ["--policy.recipe.gap_every=1"]
    second = runs.train("plain2", *words, "--policy.recipe.cache=", **more)
    runs.cache("build", *words, *cached, **more)
    with no_decoding():
        light2 = runs.train("light2", *words, *cached, **more)
    same(second, light2)
    key = "frame" if kind == "vision" else "frame and instruction"
    assert Cache(runs.out / "cache/stage2").stamp["key"] == key
    assert Cache(runs.out / "cache/stage1").stamp["key"] == "frame"


@pytest.fixture
def no_decoding(monkeypatch):
    """A context in which every image that the host decodes is an error."""
    import contextlib

    from PIL import Image

    @contextlib.contextmanager
    def guard():
        def load(*_args, **_kwargs):
            raise AssertionError("an image was decoded")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Image.Image, "load", load)
            patch.setattr(Image, "open", load)
            yield

    return guard


def test_that_guard_sees_a_decoded_image(data, no_decoding) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("test/labelled", root=data["labelled"])
    with no_decoding(), pytest.raises(AssertionError, match="an image was decoded"):
        dataset[0]


def test_videos_are_not_decoded_either(tmp_path: Path, monkeypatch) -> None:
    from lerobot.datasets import dataset_reader
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from apt_plugin.hosts.lerobot.cache_data import without_images

    dataset = LeRobotDataset("test/video", root=datasets.write(tmp_path / "video", ["go"], episodes=2, videos=True))
    before = dataset[3]
    assert "observation.images.top" in before
    without_images(dataset)
    monkeypatch.setattr(dataset_reader, "decode_video_frames", lambda *a, **k: pytest.fail("a video was decoded"))
    after = dataset[3]
    assert {k for k in before if k not in after} == {k for k in before if k.startswith("observation.images")}
    assert torch.equal(before["action"], after["action"])


def test_the_vlm_is_not_in_memory_and_yet_in_the_checkpoint(runs: Runs, monkeypatch) -> None:
    """The policy that trains holds no VLM parameter; what it saves is what an uncached run saves, byte for byte."""
    from apt_plugin.hosts.lerobot.policy import AptPolicy

    held = []
    forward = AptPolicy.forward

    def watched(self, batch, reduction="mean"):
        held.append([n for n, _ in self.named_parameters() if ".paligemma." in n])
        assert not any(k.startswith("observation.images") for k in batch)
        return forward(self, batch, reduction)

    monkeypatch.setattr(AptPolicy, "forward", watched)
    cached = [f"--policy.recipe.cache={runs.out / 'cache'}"]
    runs.cache("build", *cached)
    light = runs.train("light", *cached)
    assert held == [[]] * 4
    monkeypatch.undo()
    plain = runs.train("plain")
    bytes_of = [(model(c) / "model.safetensors").read_bytes() for c in (light, plain)]
    assert bytes_of[0] == bytes_of[1]


def test_a_cached_run_resumes_and_its_base_may_be_gone(runs: Runs, tmp_path: Path) -> None:
    """On resume the VLM's tensors come from the run's own checkpoint."""
    import shutil

    base = tmp_path / "base"
    shutil.copytree(runs.plain["pi05"], base)
    cached = [f"--policy.recipe.cache={runs.out / 'cache'}", f"--policy.pretrained_path={base}"]
    runs.cache("build", *cached)
    whole = runs.train("whole", *cached)
    shutil.rmtree(base)
    config = model(whole, "000002") / "train_config.json"
    datasets.lerobot_train(f"--config_path={config}", "--resume=true", f"--output_dir={tmp_path / 'again'}")
    a, b = model(whole), model(tmp_path / "again/checkpoints")
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert read_record(a).curve.points("loss")[1].tolist() == read_record(b).curve.points("loss")[1].tolist()


def test_a_changed_encoder_a_swapped_processor_and_other_data_are_refused(runs: Runs, data, tmp_path: Path) -> None:
    import shutil

    cached = [f"--policy.recipe.cache={runs.out / 'cache'}"]
    runs.cache("build", *cached)

    def refused(field: str, *flags: str, **more) -> None:
        with pytest.raises(AptError, match=rf"does not fit: .*{field}"):
            runs.train(f"x{len(list(tmp_path.iterdir()))}", *cached, *flags, **more)
        with pytest.raises(AptError, match=rf"does not fit: .*{field}"):
            runs.cache("verify", *cached, *flags, **more)

    other = tiny.stock_checkpoint(tmp_path / "other", "pi05", seed=5)
    refused("encoder", f"--policy.pretrained_path={other}")
    words = tmp_path / "words"
    shutil.copytree(runs.tok, words)
    edited = json.loads((words / "tokenizer.json").read_text())
    vocabulary = edited["model"]["vocab"]
    vocabulary["17"], vocabulary["18"] = vocabulary["18"], vocabulary["17"]
    (words / "tokenizer.json").write_text(json.dumps(edited))
    refused(r"processor.*tokenizer", f"--policy.tokenizer_name={words}")
    refused(r"processor.*settings", "--policy.tokenizer_max_length=40")
    refused("dtype", "--policy.dtype=bfloat16")
    runs.data = data["unlabelled"]
    refused("dataset")
    runs.data = data["labelled"]
    runs.cache("verify", *cached)


@pytest.mark.parametrize("runs", ["groot"], indirect=True)
def test_a_swapped_image_processor_is_refused(runs: Runs) -> None:
    cached = [f"--policy.recipe.cache={runs.out / 'cache'}"]
    runs.cache("build", *cached)
    from tests.hosts.lerobot.tiny_groot import VLM

    path = runs.groot["root"] / VLM / "preprocessor_config.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(before) | {"image_mean": [0.4, 0.5, 0.5]}))
        with pytest.raises(AptError, match=r"image_processor\.image_mean is .*0\.5, 0\.5, 0\.5.* here"):
            runs.train("x", *cached)
    finally:
        path.write_text(before)


def test_a_flipped_byte_is_found(runs: Runs, capsys) -> None:
    from apt_plugin.cache_command import main

    cached = [f"--policy.recipe.cache={runs.out / 'cache'}"]
    runs.cache("build", *cached)
    assert main(["verify", str(runs.out / "cache")]) == 0
    shard = runs.out / "cache/stage1/shard-000002.safetensors"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 8
    shard.write_bytes(data)
    assert main(["verify", str(runs.out / "cache")]) == 1
    assert "shard-000002.safetensors: SHA-256" in capsys.readouterr().out
    with pytest.raises(AptError, match=r"shard-000002"):
        runs.cache("verify", *cached)
    assert main(["verify", str(runs.out / "cache"), "--repair"]) == 1
    assert "40 of 48 entries" in info(runs.out / "cache/stage1")
    with pytest.raises(AptError, match=r"lacks 8 of the 48 entries"):
        runs.train("x", *cached)
    runs.train("part", *cached, "--dataset.episodes=[0,1]")  # what is there is used
    runs.cache("build", *cached)
    runs.cache("verify", *cached)


AUGMENT = "--dataset.image_transforms.enable=true"


def test_augmentation_is_never_dropped_in_silence(runs: Runs) -> None:
    cached = [f"--policy.recipe.cache={runs.out / 'cache'}"]
    with pytest.raises(AptError, match=r"augments images at random .*--apt.cache_views 4"):
        runs.cache("build", *cached, AUGMENT)
    with pytest.raises(AptError, match=r"cache_views is 3, but the host augments nothing"):
        runs.cache("build", *cached, "--policy.recipe.cache_views=3")
    runs.cache("build", *cached)
    with pytest.raises(AptError, match=r"augments images at random"):
        runs.train("x", *cached, AUGMENT)


def test_augmented_views_are_stored_and_drawn_from(runs: Runs) -> None:
    cached = [f"--policy.recipe.cache={runs.out / 'cache'}", AUGMENT, "--policy.recipe.cache_views=3"]
    runs.cache("build", *cached)
    cache = Cache(runs.out / "cache/stage1")
    assert len(cache) == 3 * 48
    views = [{name: a.copy() for name, a in cache.entry(key).items()} for key in cache.where if key.frame == 7]
    assert not np.array_equal(views[0]["k"], views[1]["k"])
    assert not np.array_equal(views[1]["k"], views[2]["k"])
    runs.cache("verify", *cached)  # a view depends on its key alone, so it can be computed again
    runs.train("light", *cached)
    with pytest.raises(AptError, match=r"does not fit: .*augmentation"):
        runs.train("x", cached[0], AUGMENT, "--policy.recipe.cache_views=0")


def test_a_cache_needs_the_launcher_and_a_frozen_vlm(runs: Runs) -> None:
    cached = [f"--policy.recipe.cache={runs.out / 'cache'}"]
    with pytest.raises(AptError, match=r"recipe\.cache needs the launcher"):
        datasets.lerobot_train(*runs.flags("x"), *cached, native=True)
    with pytest.raises(AptError, match="no cache"):
        runs.train("x", *cached)
    prior = model(runs.train("prior"))
    with pytest.raises(AptError, match="nothing to cache: this recipe trains the VLM"):
        runs.cache("build", *cached, "--policy.recipe.vlm=full", prior=prior)
    runs.train("full", *cached, "--policy.recipe.vlm=full", prior=prior)  # goes on without


@pytest.mark.slow
def test_the_launcher_builds_and_trains_in_one_command(data, plain, tok: str, tmp_path: Path) -> None:
    """Under accelerate with two processes: the build is shared, nothing is computed twice. (Stage 2: test_soak.py.)"""
    done = datasets.call(
        "apt-plugin", "run", "accelerate", "launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
        "--mixed_precision=no", "--dynamo_backend=no", "lerobot-train", "--policy.type=pi05",
        f"--policy.pretrained_path={plain['pi05']}", *datasets.flags(data["labelled"], tok, steps=2, save_freq=2,
        output_dir=tmp_path / "run"), "--recipe", "apt", "--apt.stage", "1", "--apt.cache", str(tmp_path / "cache"),
    )  # fmt: skip
    found = re.findall(r"computed shards \[(.*?)\]", done.stderr + done.stdout)
    made = [[int(n) for n in text.split(",") if n.strip()] for text in found]
    assert len(made) == 2, done.stderr[-3000:]
    assert sorted(made[0] + made[1]) == list(range(6))  # each shard once
    cache = Cache(tmp_path / "cache/stage1")
    assert cache.complete
    assert not [p.name for p in cache.folder.iterdir() if p.name.startswith(".")], done.stderr[-2000:]
    last = tmp_path / "run/stage1/checkpoints/last"
    assert read_record(last / "pretrained_model").recipe.cache == str(tmp_path / "cache")
    assert datasets.world(last) == 2
    datasets.call("apt-plugin", "cache", "verify", str(tmp_path / "cache"))
    assert "48 of 48 entries" in datasets.call("apt-plugin", "cache", "info", str(tmp_path / "cache")).stdout
