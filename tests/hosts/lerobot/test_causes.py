"""The cheap causes on real lerobot checkpoints: sound ones of every family raise no alarm, broken ones are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apt_plugin.hosts.lerobot.listen import open_listener
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from apt_plugin.listen.causes import FOUND, NOT_KNOWN, Cause
from apt_plugin.listen.run import quick
from apt_plugin.listen_command import run_quick
from tests.hosts.lerobot import datasets, tiny_smolvla
from tests.hosts.lerobot.test_listen import groot, stock_folder  # noqa: F401

WEIGHTS = "model.safetensors"


def alarms(causes: list[Cause]) -> dict[str, str]:
    return {cause.name: " ".join(cause.evidence) for cause in causes if cause.state == FOUND}


def asked(folder: Path, data: Path, out: Path, base: str = "") -> list[Cause]:
    with sized(TINY):
        return run_quick(str(folder), str(data), "lerobot", base, out, 0, frames=6)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, tok: str) -> Path:
    with sized(TINY):
        return stock_folder(tmp_path_factory.mktemp("causes") / "pi05", "pi05", tok)


@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_sound_policies_raise_no_alarm(family: str, data: dict[str, Path], tok: str, tmp_path: Path) -> None:
    with sized(TINY):
        folder = stock_folder(tmp_path / family, family, tok)
    causes = asked(folder, data["labelled"], tmp_path / "out", str(folder))
    assert {cause.state for cause in causes} == {"ruled out"}, causes
    words = next(cause for cause in causes if cause.name == "words")
    assert "pick up the red cup" in words.evidence[0]  # read back from the tokens
    assert "Retention is 1.00" in causes[-1].evidence[0]
    page = json.loads((tmp_path / "out" / "listen.json").read_text())
    assert page["sections"][1]["sentences"] == ["No cheap cause was found."]


def test_our_own_policy_raises_no_alarm(likelihood: Path, data: dict[str, Path], tmp_path: Path) -> None:
    assert alarms(asked(likelihood, data["labelled"], tmp_path)) == {}


def test_smolvla_raises_no_alarm(data: dict[str, Path], tmp_path: Path) -> None:
    folder = tiny_smolvla.checkpoint(tmp_path / "smolvla", tiny_smolvla.vlm_folder(tmp_path / "vlm"))
    causes = asked(folder, data["labelled"], tmp_path / "out", str(folder))
    assert {cause.state for cause in causes} == {"ruled out"}, causes


@pytest.mark.parametrize("name", ["groot", "groot_apt"])
def test_groot_shows_its_facts(
    name: str,
    groot: dict[str, Path],  # noqa: F811
    data: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(groot["home"])
    listener = open_listener(str(groot[name]), str(data["labelled"]), frames=6)
    causes = quick(listener, listener.base(str(groot[name])))
    assert set(alarms(causes)) <= {"weights"}, causes  # never trained either
    assert [cause.name for cause in causes if cause.state == NOT_KNOWN] == []
    assert "Retention is 1.00" in causes[-1].evidence[0]


def broken(sound: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    shutil.copytree(sound, folder)
    held = load_file(folder / WEIGHTS)
    change(held)
    save_file(held, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def untrained(held: dict[str, torch.Tensor]) -> None:
    for name, tensor in held.items():
        if ".paligemma." in name and tensor.dim() == 1:
            tensor.fill_(0)


def drop(held: dict[str, torch.Tensor]) -> None:
    for name in [name for name in held if "embed_tokens" in name or "paligemma.lm_head" in name]:
        del held[name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: next(t for n, t in held.items() if "q_proj" in n).view(-1)[3:4].fill_(float("nan")), "finite"),
        (untrained, "never trained"),
        (drop, "were not loaded"),
    ],
)
def test_broken_weights_are_named(
    change: Callable[[dict[str, torch.Tensor]], Any], said: str, sound: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    folder = broken(sound, tmp_path / "broken", change)
    found = alarms(asked(folder, data["labelled"], tmp_path / "out"))
    assert said in found["weights"]


def test_a_limit_that_cuts_instructions_is_seen_behind_the_room_for_paraphrases(
    sound: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    """`listen` itself raises short limits: what the policy was trained with must be asked, not that."""
    folder = tmp_path / "short"
    shutil.copytree(sound, folder)
    path = folder / "policy_preprocessor.json"
    path.write_text(path.read_text().replace('"max_length": 32', '"max_length": 5'))
    assert '"max_length": 5' in path.read_text()
    assert "are cut at 5 tokens" in alarms(asked(folder, data["labelled"], tmp_path / "out"))["words"]


def test_a_task_index_and_data_with_one_task(sound: Path, tmp_path: Path) -> None:
    numbers = datasets.write(tmp_path / "numbers", ["0", "1"], episodes=4)
    assert set(alarms(asked(sound, numbers, tmp_path / "a"))) == {"words", "data"}
    one = datasets.write(tmp_path / "one", ["pick up the red cup"], episodes=2)
    assert set(alarms(asked(sound, one, tmp_path / "b"))) == {"data"}


def test_a_vlm_that_training_tore_apart(sound: Path, data: dict[str, Path], tmp_path: Path) -> None:
    def torn(held: dict[str, torch.Tensor]) -> None:
        for name, tensor in held.items():
            if ".paligemma." in name and tensor.dim() == 2:
                tensor.copy_(torch.randn_like(tensor) * tensor.std())

    folder = broken(sound, tmp_path / "torn", torn)
    causes = asked(folder, data["labelled"], tmp_path / "out", str(sound))
    assert {"weights", "retention"} == set(alarms(causes)), causes
