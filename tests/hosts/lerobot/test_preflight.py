"""Before the first step, on lerobot: every finding provoked once by the documented command, and its seconds."""

from __future__ import annotations

import json
import re
import shutil
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import preflight as host
from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
from apt_plugin.launch import split
from apt_plugin.run import facts, preflight
from apt_plugin.run.staged import Staged, check
from tests.core.test_preflight import FAULTS
from tests.hosts.lerobot import datasets

LONG = "pick up the red cup and " * 12


@pytest.fixture(scope="module")
def command(data, plain, tok, tmp_path_factory):
    """The launcher's command of both stages on a data set, with more flags."""

    def write(*more: str, on: Path = data["labelled"]) -> list[str]:
        base = ["--policy.type=pi05", f"--policy.pretrained_path={plain['pi05']}"]
        out = tmp_path_factory.mktemp("run") / "out"
        return ["lerobot-train", *base, *datasets.flags(on, tok, output_dir=out, steps=40), "--recipe=apt", *more]

    return write


@pytest.fixture
def found(monkeypatch):
    """(level, stage, words) of each finding; the child's work is done in this process, which has lerobot imported."""

    def inside(child) -> int:
        monkeypatch.setenv(facts.JOB, child.env[facts.JOB])
        host.main()
        return 0

    def look(argv: list[str]) -> list[tuple[str, str, str]]:
        stages = LerobotAdapter().stages(split(argv))
        _, told = Staged(stages, split(argv), inside).look()
        return [(one.level, one.stage, one.words) for one in preflight.judge(told) if "of the VLM" not in one.words]

    return look


@pytest.fixture
def changed(tmp_path, data):
    """A copy of the labelled set whose numbers, words or statistics a test changes."""
    folder = tmp_path / "changed"
    shutil.copytree(data["labelled"], folder)
    return folder


def edit_stats(folder: Path, change) -> None:
    path = folder / "meta" / "stats.json"
    stats = json.loads(path.read_text())
    change(stats)
    path.write_text(json.dumps(stats))


def spoil(folder: Path) -> None:
    """One number of the first frame is none."""
    path = min((folder / "data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    first = np.array(table["observation.state"][0])
    first[1] = np.nan
    table.at[0, "observation.state"] = first
    table.to_parquet(path)


def test_a_sound_run_is_silent(command, found):
    assert found(command()) == []


def test_a_typo_in_a_flag_of_stage_2(command, found, capfd):
    with pytest.raises(AptError, match=r"Stage 2: the host refuses these flags.*--apt.stage2.<flag>"):
        found(command("--apt.stage2.stepz=5"))
    assert "unrecognized arguments: --stepz=5" in capfd.readouterr().err


def test_a_value_that_stage_2_refuses(command, found):
    """The host's `validate`, not only its parser."""
    with pytest.raises(AptError, match=r"Stage 2: eval_steps > 0 requires dataset.eval_split"):
        found(command("--apt.stage2.eval_steps=5"))


def test_stage_2_inherits_what_stage_1_says_of_the_policy(command, found):
    """Its config comes from Stage 1's checkpoint, which is not there yet."""
    said = found(command("--apt.stage1.policy.tokenizer_max_length=12"))
    assert [(level, stage) for level, stage, _ in said] == [("error", "1"), ("error", "2")]


def test_no_such_data_set(command, found, tmp_path):
    with pytest.raises(AptError, match=r"Stage 1: there is no data set --dataset.repo_id test/absent"):
        found(command(on=tmp_path / "absent"))


def test_a_prompt_beyond_the_token_limit(command, found, data):
    """In the words of the host's flag; before, the run ended in its middle when the batch with it came."""
    said = found(command("--policy.tokenizer_max_length=12"))
    assert [(level, stage) for level, stage, _ in said] == [("error", "1"), ("error", "2")]
    assert (
        "--policy.tokenizer_max_length is 12: 'pick up the red cup'. Write --policy.tokenizer_max_length=" in said[0][2]
    )
    enough = said[0][2].rpartition("tokenizer_max_length=")[2].split()[0]
    assert found(command(f"--policy.tokenizer_max_length={enough}")) == []


def test_a_long_instruction_of_stage_2_only(command, found, tmp_path, data):
    folder = datasets.write(tmp_path / "long", [LONG, "push"], episodes=2, frames=3)
    play = [f"--apt.stage1.dataset.root={data['bare']}", f"--apt.stage1.dataset.repo_id=test/{data['bare'].name}"]
    ((level, stage, words),) = found(command(*play, on=folder))
    assert (level, stage) == ("error", "2")
    assert "pick up the red cup and" in words


@pytest.mark.parametrize("which", ["bare", "unlabelled"])
def test_stage_2_without_words(command, found, data, which):
    ((level, stage, words),) = found(command(on=data[which]))
    assert (level, stage) == ("error", "2")
    assert f"learns from instructions, and test/{data[which].name} has none" in words
    assert "--dataset.repo_id" in words


def test_a_missing_instruction_and_a_single_one(command, found, tmp_path):
    folder = datasets.write(tmp_path / "some", ["push the cup", ""], episodes=2, frames=3)
    said = found(command(on=folder))
    assert [(level, stage) for level, stage, _ in said] == [("warning", "2"), ("warning", "2")]
    assert "1 of 2 instructions in test/some are empty" in said[0][2]
    assert "one instruction only" in said[1][2]


def test_the_warm_up_as_it_will_be(command, found):
    """lerobot shrinks it where the training is shorter than the decay: what is judged is what is carried out."""
    own = {"steps": 40, "policy.scheduler_warmup_steps": 60, "policy.scheduler_decay_steps": 40}
    more = [f"--apt.stage1.{name}={value}" for name, value in own.items()]
    said = found(command(*more, "--apt.stage2.steps=40", "--apt.stage2.policy.scheduler_warmup_steps=0"))
    assert [(level, stage) for level, stage, _ in said] == [("warning", "1")]
    assert "40 steps end inside a warm-up of 60 steps, at 66 %" in said[0][2]
    assert "--policy.scheduler_warmup_steps" in said[0][2]


def test_numbers_that_are_none(command, found, changed):
    """π0.5 writes a NaN state into its prompt as any other number."""
    spoil(changed)
    said = found(command(on=changed))
    assert [(level, stage) for level, stage, _ in said] == [("error", "1"), ("error", "2")]
    assert "1 numbers of observation.state in test/changed are NaN" in said[0][2]
    assert found(command("--dataset.episodes=[1,2]", on=changed)) == []  # the frame is left out


def test_unlabelled_data_that_is_mixed_in(command, found, changed, data, tmp_path):
    """It is opened when Stage 2 begins, after all of Stage 1."""
    share = "--apt.mix.share=0.5"
    with pytest.raises(AptError, match=r"Stage 2: there is no data set --apt.mix.repo_id test/absent"):
        found(command(share, "--apt.mix.repo_id=test/absent", f"--apt.mix.root={tmp_path / 'absent'}"))
    spoil(changed)
    ((level, stage, words),) = found(command(share, "--apt.mix.repo_id=test/changed", f"--apt.mix.root={changed}"))
    assert (level, stage) == ("error", "2")
    assert "1 numbers of observation.state in test/labelled + test/changed are NaN" in words


def test_quantiles_that_are_missing(command, found, changed):
    def drop(stats):
        del stats["action"]["q01"], stats["action"]["q99"]

    edit_stats(changed, drop)
    ((level, stage, words),) = found(command(on=changed))  # Stage 2 normalises with Stage 1's
    assert (level, stage) == ("error", "1")
    assert "(action: q01, q99)" in words
    assert f"augment_dataset_quantile_stats --repo-id=test/changed --root={changed}" in words


def test_statistics_that_are_no_numbers(command, found, changed):
    edit_stats(changed, lambda stats: stats["action"]["q99"].__setitem__(0, float("nan")))
    ((level, stage, words),) = found(command(on=changed))
    assert (level, stage) == ("error", "1")
    assert "NaN or infinite (action: q99)" in words


def test_statistics_of_another_data_set(command, found, changed):
    edit_stats(changed, lambda stats: stats["observation.state"]["mean"].__setitem__(2, 3.0))
    ((level, stage, words),) = found(command("--apt.norm_stats=data", "--apt.stage=1", on=changed))
    assert (level, stage) == ("warning", "1")
    assert "observation.state[2] is" in words
    assert "they say 3" in words


def test_a_policy_without_a_state(command, found, changed):
    path = changed / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"]["proprio"] = info["features"].pop("observation.state")
    path.write_text(json.dumps(info))
    with pytest.raises(AptError, match=r"reads observation.state, and test/changed has no such column.*--rename_map"):
        found(command(on=changed))


def disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(facts.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1 << 10))


def card(size: int):
    """A machine with one card of so many bytes."""

    def change(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(total_memory=size))

    return change


CARD = ["--policy.device=cuda", "--apt.stage=1"]
STEPS = ["--apt.stage1.steps=40", "--apt.stage2.steps=40"]
SCHEDULE = "--apt.stage1.policy.scheduler"
# Not here: no steps, which the budget of both stages refuses first; a decay that never ends, which the host shortens;
# no room for the proofs, which hold what Stage 1 holds.
# Finding -> (what is changed of the machine, flags, what is said)
PROVOKED = {
    "a full disk": (disk, [], "has 1.02 kB free .*--save_freq, .*--output_dir"),
    "a small device": (card(1 << 10), [*CARD, "--apt.prove=false"], "of device memory and the device has 1.02 kB"),
    "mostly warm-up": (
        None,
        [*STEPS, f"{SCHEDULE}_warmup_steps=24", f"{SCHEDULE}_decay_steps=40"],
        "24 of its 40 steps are warm-up. Lower --policy.scheduler_warmup_steps",
    ),
    "an early end of the decay": (
        None,
        [*STEPS, f"{SCHEDULE}_warmup_steps=2", f"{SCHEDULE}_decay_steps=20"],
        "come down after 20 of 40",
    ),
}


@pytest.mark.parametrize("name", PROVOKED)
def test_of_the_machine_and_the_schedule(name: str, command, found, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, flags, words = PROVOKED[name]
    if machine is not None:
        machine(monkeypatch)
    (said,) = found(command(*flags))
    assert said[0] == FAULTS[name][1]
    assert re.search(words, said[2]), said


def test_a_card_that_holds_stage_1_holds_its_proofs(command, found, plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 bytes a parameter: in bfloat16, as the launcher trains there. Proofs in float32 were refused."""
    count = host._parameters(types.SimpleNamespace(pretrained_path=plain["pi05"]))
    card(3 * count)(monkeypatch)
    assert found(command(*CARD)) == []
    ((level, _, words),) = found(command(*CARD, "--policy.dtype=float32"))
    assert (level, "of device memory" in words) == ("error", True)


def test_the_command_stops_before_it_starts(command, data, capfd, monkeypatch):
    """`apt-plugin check` in processes of its own, as a user starts it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    argv = command(on=data["unlabelled"])
    begun = time.monotonic()
    assert check(LerobotAdapter(), split(argv)) == 1
    seconds = time.monotonic() - begun
    out = capfd.readouterr()
    assert "error: Stage 2: it learns from instructions" in out.out
    assert "token limit" in out.out
    print(f"pre-flight on a tiny data set: {seconds:.1f} s")


def test_fifty_thousand_frames_take_seconds(command, found, changed):
    """Without images, which a pre-flight does not read."""
    frames, episodes = 50_000, 500
    source = next((changed / "data").rglob("*.parquet"))
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "observation.state": list(rng.uniform(-1, 1, (frames, 4)).astype(np.float32)),
        "action": list(rng.uniform(-1, 1, (frames, 3)).astype(np.float32)),
        "episode_index": np.repeat(np.arange(episodes), frames // episodes),
    })  # fmt: skip
    table.to_parquet(source)
    tasks = pd.DataFrame(
        {"task_index": range(2000)}, index=pd.Index([f"push cup {i}" for i in range(2000)], name="task")
    )
    tasks.to_parquet(changed / "meta" / "tasks.parquet")
    begun = time.monotonic()
    assert found(command(on=changed)) == []
    seconds = time.monotonic() - begun
    print(f"pre-flight on {frames} frames and {len(tasks)} instructions: {seconds:.1f} s beside the imports")
    assert seconds < 60
