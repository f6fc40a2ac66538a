"""Each finding of the pre-flight provoked once on the real Isaac GR00T's flags, base and data set, in one process."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import json
import re
import shutil
import types

import numpy as np
import pandas as pd
import pytest
import torch

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import preflight as host
from apt_plugin.hosts.gr00t.names import TRAIN
from apt_plugin.recipe import from_flat
from apt_plugin.run import facts, preflight
from tests.core.test_preflight import FAULTS
from tests.hosts.gr00t import tiny

UNKNOWN = {
    "a prompt beyond the token limit": "its prompt has no limit",
    "missing statistics": "the host computes what is missing",
    "statistics of other data": "the host computes them of the data",
    "an early end of the decay": "its decay always ends with the training",
    "a decay that never ends": "its decay always ends with the training",
    "no room for the proofs": "they run on the CPU: see the row about the machine",
}


@pytest.fixture
def data(where, tmp_path):
    """A copy that a test changes."""
    return shutil.copytree(where / "data", tmp_path / "data")


def found(data, *flags: str, stage: str = "2") -> list[preflight.Finding]:
    told = ask(data, *flags, stage=stage)
    return [one for one in preflight.judge({stage: told}) if "of the VLM" not in one.words]


def ask(data, *flags: str, stage: str = "2", **recipe) -> preflight.Facts:
    own = [
        "--base-model-path",
        "base2",
        "--dataset-path",
        str(data),
        "--embodiment-tag",
        tiny.TAG,
        "--max-steps",
        "100",
    ]
    asked = host.parsed(stage, TRAIN, [*own, "--output-dir", str(data.parent / "out"), *flags])
    return host.of(stage, asked, TRAIN, from_flat({"vlm": "full", **recipe}), data.parent / "out")


def tasks(*texts: str):
    def change(data) -> None:
        lines = [json.dumps({"task_index": i, "task": text}) for i, text in enumerate(texts)]
        (data / "meta/tasks.jsonl").write_text("".join(f"{line}\n" for line in lines))

    return change


def spoil(data) -> None:
    path = next((data / "data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    table.at[0, "action"] = np.full(7, np.nan, np.float32)
    table.to_parquet(path)


def info(**more):
    def change(data) -> None:
        path = data / "meta/info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return change


def broken(data) -> None:
    (data / "meta/stats.json").write_text(json.dumps({"action": {"mean": [0.0], "q99": [float("nan")]}}))


def card(share: float):
    """A machine with one card, of so much of the weights."""

    def change(patch: pytest.MonkeyPatch, told: preflight.Facts) -> None:
        size = int(share * (told.memory_needed or 0))
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(total_memory=size))

    return change


def disk(patch: pytest.MonkeyPatch, _told: preflight.Facts) -> None:
    patch.setattr(facts.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1 << 10))


def memory(patch: pytest.MonkeyPatch, _told: preflight.Facts) -> None:
    patch.setattr(facts, "machine_memory", lambda: 1 << 10)


# Finding -> (what is changed of the data, of the machine, flags; what is said)
PROVOKED = {
    "no state": (None, None, ["--state-dropout-prob", "1.0"], "fed no state .* --state-dropout-prob below 1"),
    "no instruction": (tasks(), None, [], "has none. Name labelled data with --dataset-path"),
    "empty instructions only": (tasks("", " "), None, [], "has none"),
    "a missing instruction": (tasks("push", "pull", ""), None, [], "1 of 3 instructions in .* are empty"),
    "one instruction": (tasks("push"), None, [], "one instruction only"),
    "no frames": (info(total_frames=0), None, [], "holds no frames"),
    "numbers that are none": (spoil, None, [], "7 numbers of action in .* are NaN"),
    "broken statistics": (broken, None, [], r"NaN or infinite \(.*action: q99\)"),
    "steps inside the warm-up": (None, None, ["--warmup-ratio", "1.0"], "100 steps end inside a warm-up of 100"),
    "mostly warm-up": (None, None, ["--warmup-ratio", "0.6"], "60 of its 100 steps are warm-up. Lower --warmup-ratio"),
    "no steps": (None, None, ["--max-steps", "0"], "--max-steps is 0"),
    "a small device": (None, card(0.5), [], "of device memory and the device has"),
    "no room for proofs on the machine": (None, memory, [], r"policy once .* of memory; .*prove CHECKPOINT\.$"),
    "a full disk": (None, disk, [], "has 1.02 kB free .*--save-total-limit, .*--output-dir"),
}  # fmt: skip


def test_a_sound_run_is_silent(data):
    assert found(data) == []


@pytest.mark.parametrize("name", PROVOKED)
def test_each_finding(name, data, monkeypatch):
    changed, machine, flags, words = PROVOKED[name]
    if changed is not None:
        changed(data)
    if machine is not None:
        machine(monkeypatch, ask(data))
    (said,) = found(data, *flags)
    assert said.level == FAULTS[name][1]
    assert re.search(words, str(said)), said


@pytest.mark.parametrize(("vlm", "words"), [("full", "all parameters train, at 0.5"), ("frozen", "nothing trains")])
def test_which_of_the_vlm_trains_is_told(data, vlm, words):
    assert words in str(ask(data, vlm=vlm).vlm)
    assert ask(data, vlm=vlm, stage="1").vlm == "nothing trains"


def test_every_finding_is_provoked_or_said_to_be_unknown():
    assert PROVOKED.keys() | UNKNOWN.keys() | {"which of the VLM trains"} == FAULTS.keys()


def test_data_that_is_not_there_is_refused(data):
    with pytest.raises(AptError, match="absent"):
        ask(data / "absent")
    with pytest.raises(AptError, match="absent"):
        ask(data, **{"mix.share": 0.5, "mix.root": str(data / "absent")})
