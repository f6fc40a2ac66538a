"""Each finding of the pre-flight provoked once on openpi's own configs and a real LeRobot data set, in one process."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from openpi.shared import normalize
from openpi.training import config as _config
from openpi.training import data_loader, optimizer

from apt_plugin.hosts.openpi import preflight as host
from apt_plugin.recipe import from_flat
from apt_plugin.run import facts, preflight
from tests import processes
from tests.core.test_preflight import FAULTS
from tests.hosts.openpi import tiny
from tests.hosts.openpi.test_round_trip import environment
from tests.hosts.openpi.test_traps import libero, offline_tokenizer  # noqa: F401

SAID_OF_SOUND = "of the VLM"  # a note that every stage gets
UNKNOWN = {
    "statistics of other data": "openpi's statistics are of transformed numbers: no column can be compared with them",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """HF_LEROBOT_HOME with a set of two tasks."""
    home = tmp_path_factory.mktemp("findings")
    command = [sys.executable, "-m", "tests.hosts.openpi.frames", "me/toy"]
    done = processes.run(command, cwd=home, env=environment(home, HF_LEROBOT_HOME=str(home), HF_HUB_OFFLINE="1"))
    assert done.returncode == 0, done.stderr[-3000:]
    return home


@pytest.fixture
def home(made, tmp_path, monkeypatch) -> Path:
    """A copy that a test changes, in which the host looks for data sets."""
    shutil.copytree(made, tmp_path / "home")
    real = data_loader.lerobot_dataset.LeRobotDatasetMetadata
    monkeypatch.setattr(
        data_loader.lerobot_dataset, "LeRobotDatasetMetadata", lambda name: real(name, root=tmp_path / "home" / name)
    )
    normalize.save(tmp_path / "assets/toy_pi05/me/toy", statistics())
    return tmp_path / "home"


def statistics() -> dict[str, normalize.NormStats]:
    def ones(width: int) -> np.ndarray:
        return np.ones(width, np.float32)

    return {
        name: normalize.NormStats(mean=0 * ones(n), std=ones(n), q01=-ones(n), q99=ones(n))
        for name, n in (("state", 8), ("actions", 7))
    }


def config(home: Path, **more) -> _config.TrainConfig:
    places = {"assets_base_dir": str(home.parent / "assets"), "checkpoint_base_dir": str(home.parent / "checkpoints")}
    schedule = optimizer.CosineDecaySchedule(warmup_steps=10, decay_steps=100)
    settings = {"exp_name": "e1", "num_train_steps": 100, "lr_schedule": schedule, "keep_period": None, **places}
    return libero(**settings | more)


def found(home: Path, stage: str = "2", recipe: dict | None = None, **more) -> list[preflight.Finding]:
    told = ask(home, stage, recipe, **more)
    assert "refused" not in told, told
    return [one for one in preflight.judge({stage: preflight.Facts(**told)}) if SAID_OF_SOUND not in one.words]


def ask(home: Path, stage: str = "2", recipe: dict | None = None, **more) -> dict:
    return host.facts_of(stage, config(home, **more), from_flat({"vlm": "full", **(recipe or {})}), torch=False)


def schedule(warmup: int, decay: int) -> dict:
    return {"lr_schedule": optimizer.CosineDecaySchedule(warmup_steps=warmup, decay_steps=decay)}


def tasks(*texts: str):
    def change(home: Path) -> None:
        lines = [json.dumps({"task_index": i, "task": text}) for i, text in enumerate(texts)]
        (home / "me/toy/meta/tasks.jsonl").write_text("\n".join(lines) + "\n" if lines else "")

    return change


def spoil(home: Path) -> None:
    path = next((home / "me/toy/data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    table.at[0, "actions"] = np.full(7, np.nan, np.float32)
    table.to_parquet(path)


def no_frames(home: Path) -> None:
    path = home / "me/toy/meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_frames": 0}))


def broken(home: Path) -> None:
    numbers = statistics()
    numbers["actions"].q99[2] = np.nan
    normalize.save(home.parent / "assets/toy_pi05/me/toy", numbers)


def card(share: float):
    """A machine with one card, of so much of the weights."""

    def change(patch: pytest.MonkeyPatch, weights: int) -> None:
        size = int(share * weights)
        patch.delenv("JAX_PLATFORMS", raising=False)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(total_memory=size))

    return change


def disk(size: int):
    return lambda patch, _: patch.setattr(facts.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=size))


OWN = {"norm_stats": "data"}  # else Stage 2 goes by the statistics of its Stage 1
# Finding -> (what is changed of the data, of the machine, of config and recipe; what is said)
PROVOKED = {
    "a prompt beyond the token limit":
        (None, None, {"model": tiny.stock("pi05", action_dim=8, max_token_len=30)}, "--model.max-token-len is 30"),
    "no state": (None, None,
        {"model": tiny.stock("pi05", action_dim=8, max_token_len=150, discrete_state_input=False)},
        "fed no state .* --model.discrete-state-input"),
    "no instruction": (tasks(), None, {}, "me/toy has none. Name labelled data with --data.repo-id"),
    "empty instructions only": (tasks("", " "), None, {}, "me/toy has none"),
    "a missing instruction": (tasks("push", "pull", ""), None, {}, "1 of 3 instructions in me/toy are empty"),
    "one instruction": (tasks("push"), None, {}, "me/toy has one instruction only"),
    "no frames": (no_frames, None, {}, "me/toy holds no frames"),
    "numbers that are none": (spoil, None, {}, "7 numbers of actions in me/toy are NaN"),
    "missing statistics": (lambda home: shutil.rmtree(home.parent / "assets"), None, {"recipe": OWN},
        r"\(state: q01, q99; actions: q01, q99\).*scripts/compute_norm_stats.py --config-name toy_pi05"),
    "broken statistics": (broken, None, {"recipe": OWN}, r"NaN or infinite \(actions: q99\)"),
    "steps inside the warm-up": (None, None, schedule(400, 100), "100 steps end inside a warm-up of 400 .* 25 %"),
    "mostly warm-up": (None, None, schedule(60, 100), "60 of its 100 steps .* --lr-schedule.warmup-steps"),
    "no steps": (None, None, {"num_train_steps": 0}, "--num-train-steps is 0"),
    "an early end of the decay": (None, None, schedule(10, 50), r"after 50 of 100 .*--lr-schedule.decay-steps"),
    "a decay that never ends": (None, None, schedule(10, 900), "comes down over 900 steps"),
    # A device that holds a stage holds its proofs: what does not fit is a stage that several devices share.
    "no room for the proofs": (None, card(0.75), {"fsdp_devices": 2}, "the policy once .* MB .*--apt.prove false"),
    "a small device": (None, card(0.5), {}, "of device memory and the device has"),
    "a full disk": (None, disk(1 << 20), {}, "has 1.05 MB free .*--keep-period, .*--checkpoint-base-dir"),
}  # fmt: skip


def test_a_sound_run_is_silent(home):
    assert found(home) == []


@pytest.mark.parametrize("name", PROVOKED)
def test_each_finding(name, home, monkeypatch):
    data, machine, more, words = PROVOKED[name]
    if data is not None:
        data(home)
    if machine is not None:
        machine(monkeypatch, ask(home)["memory_needed"])
    (said,) = found(home, **more)
    assert said.level == FAULTS[name][1]
    assert re.search(words, str(said)), said


def test_the_pytorch_trainer_proves_in_the_machines_memory(home, monkeypatch):
    monkeypatch.setattr(facts, "machine_memory", lambda: 1 << 20)
    told = preflight.Facts(**host.facts_of("1", config(home), from_flat({"vlm": "full"}), torch=True))
    (said,) = [one for one in preflight.judge({"1": told}) if SAID_OF_SOUND not in one.words]
    assert re.search(r"of memory; there are 1.05 MB. .* prove CHECKPOINT\.$", said.words)


@pytest.mark.parametrize(("vlm", "words"), [
    ("full", "all parameters train, at 0.5"), ("lora", "LoRA factors train"), ("frozen", "nothing trains"),
])  # fmt: skip
def test_which_of_the_vlm_trains_is_told(home, vlm, words):
    told = host.facts_of("2", config(home), from_flat({"vlm": vlm}), torch=False)
    assert words in told["vlm"]
    assert host.facts_of("1", config(home), from_flat({"vlm": vlm}), torch=False)["vlm"] == "nothing trains"


@pytest.mark.parametrize(("stage", "vlm", "words"), [
    ("1", "lora", "nothing trains; the LoRA factors of dummy_lora are not made (Stage 2 trains them)"),
    ("2", "frozen", "nothing trains; the LoRA factors of dummy_lora are not made: --apt.vlm lora trains them"),
    ("2", "full", "at 0.5 of the learning rate; the LoRA factors of dummy_lora are not made: --apt.vlm lora"),
])  # fmt: skip
def test_a_lora_config_is_told_what_it_leaves_untrained(home, stage, vlm, words):
    more = {"model": tiny.stock("pi05", action_dim=8, max_token_len=150, paligemma_variant="dummy_lora")}
    told = host.facts_of(stage, config(home, **more), from_flat({"vlm": vlm}), torch=False)
    assert words in told["vlm"]
    assert (
        "LoRA factors train, at" in host.facts_of("2", config(home, **more), from_flat({"vlm": "lora"}), False)["vlm"]
    )
    expert = tiny.stock("pi05", action_dim=8, max_token_len=150, action_expert_variant="dummy_lora")
    said = host.facts_of(stage, config(home, model=expert), from_flat({"vlm": "frozen"}), torch=False)["vlm"]
    assert said.endswith("of the action expert's language model dummy_lora trains LoRA factors alone")


def test_every_finding_is_provoked_or_said_to_be_unknown():
    elsewhere = {"no room for proofs on the machine", "which of the VLM trains"}  # the two tests above
    assert PROVOKED.keys() | UNKNOWN.keys() | elsewhere == FAULTS.keys()


@pytest.mark.parametrize(("more", "words"), [
    ({"data": dataclasses.replace(libero().data, repo_id="me/absent")}, "Stage 2: there is no data set --data.repo-id"),
    ({"recipe": {"mix.share": 0.5, "mix.repo_id": "me/absent"}}, "no data set --apt.mix.repo_id me/absent"),
])  # fmt: skip
def test_data_that_is_not_there_is_refused(home, more, words):
    assert words in ask(home, **more)["refused"]
