"""LoRA in the recipe and in the host's flags say the same; a run is resumed to the same bits; nothing changed opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.opening import open_policy
from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets
from tests.hosts.lerobot.datasets import stage2


@pytest.mark.parametrize("vlm", ["frozen", "full"])
def test_peft_flags_beside_a_recipe_without_lora_are_refused(
    trained: Path, data, tok: str, tmp_path: Path, vlm: str
) -> None:
    """They trained factors in a VLM that the report called "bit for bit what it was"."""
    flags = stage2(data["labelled"], trained / "last/pretrained_model", tok, tmp_path / "a", steps=1)
    with pytest.raises(AptError, match=rf"recipe says vlm={vlm}. Write --apt.vlm lora"):
        datasets.lerobot_train(*flags, f"--policy.recipe.vlm={vlm}", "--peft.method_type=LORA")


def test_lora_that_nobody_wraps_is_refused(trained: Path, data, tok: str, tmp_path: Path) -> None:
    """Without the launcher and without --peft no factor trained, and the record said lora."""
    flags = stage2(data["labelled"], trained / "last/pretrained_model", tok, tmp_path / "a", steps=1)
    with pytest.raises(AptError, match=r"vlm=lora, but nothing is wrapped: add --peft\.method_type=LORA"):
        datasets.lerobot_train(*flags, "--policy.recipe.vlm=lora")


@pytest.fixture(scope="module")
def whole(trained: Path, data, tok: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a LoRA run of 4 steps, saved at 2 and 4; its prior is a copy of its own beside it."""
    folder = tmp_path_factory.mktemp("lora")
    prior = Path(shutil.copytree(trained / "last/pretrained_model", folder / "prior"))
    flags = stage2(data["labelled"], prior, tok, folder / "a", steps=4, save_freq=2)
    datasets.lerobot_train(*flags, "--policy.recipe.vlm=lora", "--peft.method_type=LORA", "--peft.r=2")
    return folder / "a/checkpoints"


def test_a_resumed_lora_run_equals_one_that_never_stopped(whole: Path, tmp_path: Path) -> None:
    """It forgot step, curve and noise: weights differed by 1e-3, and the record said 2 steps of 4."""
    config = whole / "000002/pretrained_model/train_config.json"
    datasets.lerobot_train(f"--config_path={config}", "--resume=true", f"--output_dir={tmp_path / 'b'}")
    one, two = (path / "000004/pretrained_model" for path in (whole, tmp_path / "b/checkpoints"))
    first, second = (load_file(path / "adapter_model.safetensors") for path in (one, two))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    a, b = read_record(one), read_record(two)
    assert a.curve.points("loss")[1].tolist() == b.curve.points("loss")[1].tolist()
    assert (a.steps, a.vlm_start, a.vlm, a.stage1) == (b.steps, b.vlm_start, b.vlm, b.stage1)
    assert a.vlm == a.vlm_start  # contract 4: below the factors the VLM is what it was


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _another_base(prior: Path) -> None:
    """As `--overwrite` leaves it: whole, with a record of its own, and not the one that the factors were trained on."""
    _flip(prior / "model.safetensors")
    _edit(prior / "apt.json", weights=files.sha256_of(prior / "model.safetensors"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder, prior: _flip(folder / "adapter_model.safetensors"), "adapter_model.safetensors was changed"),
        (lambda folder, prior: _edit(folder / "adapter_config.json", lora_alpha=1), "lora_alpha is now 1"),
        (lambda folder, prior: _edit(folder / "config.json", num_inference_steps=3), "num_inference_steps is now 3"),
        (lambda folder, prior: _flip(prior / "model.safetensors"), "model.safetensors was changed"),
        (lambda folder, prior: _another_base(prior), "trained on another base"),
    ],
    ids=["factors", "rank", "config", "base", "base replaced"],
)
def test_a_changed_adapter_or_base_is_refused(whole: Path, tmp_path: Path, change: Callable, words: str) -> None:
    """Each opened silently, or with a random model behind it."""
    folder = Path(shutil.copytree(whole / "000004/pretrained_model", tmp_path / "adapter"))
    prior = Path(shutil.copytree(whole.parents[1] / "prior", tmp_path / "prior"))
    _edit(folder / "adapter_config.json", base_model_name_or_path=str(prior))
    open_policy(folder)  # a base may be moved
    change(folder, prior)
    with pytest.raises(AptError, match=words):
        open_policy(folder)
