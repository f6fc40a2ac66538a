"""`--recipe warmup`: the host's own training, its VLM frozen for the first steps and trained afterwards."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import preflight, warmup
from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
from apt_plugin.hosts.lerobot.groups import in_vlm
from apt_plugin.launch import split
from apt_plugin.run import replace, staged
from apt_plugin.run import warmup as core
from apt_plugin.run.warmup import FROZEN_SHARE
from tests.hosts.lerobot import datasets, tiny_smolvla

TRAINS = ("--policy.train_expert_only=false", "--policy.freeze_vision_encoder=false")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("warmup")
    return tiny_smolvla.checkpoint(home / "base", tiny_smolvla.vlm_folder(home / "vlm"))


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    yield
    warmup.uninstall()


def train(base: Path, data: Path, out: Path, share: float | None, *more: str) -> dict[int, Path]:
    """Four steps by the host's script, a checkpoint after every second one."""
    if share is not None:
        warmup.install(share)
    named = flags(base, data, out)
    try:
        datasets.lerobot_train(*(more if "--resume=true" in more else (*named, *more)), native=True)
    finally:
        warmup.uninstall()
    return {int(path.name): path for path in (out / "checkpoints").iterdir() if path.name.isdecimal()}


def flags(base: Path, data: Path, out: Path) -> list[str]:
    return (
        f"--policy.path={base} --policy.device=cpu --policy.push_to_hub=false --policy.scheduler_warmup_steps=1 "
        f"--policy.scheduler_decay_steps=4 --dataset.repo_id=test/{data.name} --dataset.root={data} "
        f"--dataset.video_backend=pyav --num_workers=0 --batch_size=4 --log_freq=1 --env_eval_freq=0 --seed=3 "
        f"--steps=4 --save_freq=2 --output_dir={out}"
    ).split()


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> tuple[bool, bool]:
    """Whether the VLM did, and the rest."""
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    return any(in_vlm(name) for name in changed), any(not in_vlm(name) for name in changed)


def rates(checkpoint: Path) -> Any:
    return json.loads((checkpoint / "training_state/scheduler_state.json").read_text())["_last_lr"]


def test_the_vlm_is_still_then_trains_on_one_schedule_and_the_result_is_the_hosts_own(
    base: Path, data: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    warmed = train(base, data["labelled"], tmp_path / "warm", 0.5, *TRAINS)
    told = "".join(capsys.readouterr())  # the host sets its own handlers
    assert "step 0 of 4: the VLM is frozen for the first 2" in told
    assert "step 2 of 4: the VLM trains from here on" in told
    start, half, end = weights(base), *(weights(warmed[step] / "pretrained_model") for step in (2, 4))
    assert moved(start, half) == (False, True)
    assert moved(half, end) == (True, True)
    assert not [name for name in end if "apt_" in name]
    assert json.loads((warmed[4] / "pretrained_model/config.json").read_text())["type"] == "smolvla"
    assert not replace.claimed()
    plain = train(base, data["labelled"], tmp_path / "plain", None, *TRAINS)
    assert moved(start, weights(plain[2] / "pretrained_model")) == (True, True)
    assert [rates(warmed[step]) for step in (2, 4)] == [rates(plain[step]) for step in (2, 4)]


def test_a_resumed_run_knows_in_which_half_it_is(base: Path, data: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(base, data["labelled"], run, 0.75, *TRAINS, "--save_freq=1")
    folder = run / "checkpoints"
    for step in (3, 4):
        shutil.rmtree(folder / f"{step:06d}")
    (folder / "last").unlink()
    (folder / "last").symlink_to("000002")
    config = folder / "000002/pretrained_model/train_config.json"
    resumed = train(base, data["labelled"], run, 0.75, f"--config_path={config}", "--resume=true")
    before, frozen, after = (weights(resumed[step] / "pretrained_model") for step in (2, 3, 4))
    assert moved(before, frozen) == (False, True)
    assert moved(frozen, after) == (True, True)


@pytest.mark.parametrize("native", [False, True])
def test_stage_2_keeps_the_vlm_still_for_its_share_of_the_steps(
    trained: Path, data: dict[str, Path], tok: str, tmp_path: Path, native: bool
) -> None:
    """Under the launcher and in the host's own command; a resumed run knows where it is."""
    prior, out = trained / "last" / "pretrained_model", tmp_path / "run"
    line = datasets.stage2(data["labelled"], prior, tok, out, steps=4, save_freq=1)
    recipe = ["--policy.recipe.vlm=full", "--policy.recipe.frozen_share=0.5"]
    datasets.lerobot_train(*line, *recipe, native=native)
    warmup.uninstall()
    saved = out / "checkpoints"
    states = [weights(saved / f"{step:06d}" / "pretrained_model") for step in (1, 2, 3, 4)]
    start = {**states[0], **weights(prior)}
    halves = [moved(a, b) for a, b in itertools.pairwise([start, *states])]
    assert [vlm for vlm, _ in halves] == [False, False, True, True]
    for step in (2, 3, 4):
        shutil.rmtree(saved / f"{step:06d}")
    (saved / "last").unlink()
    (saved / "last").symlink_to("000001")
    config = saved / "000001/pretrained_model/train_config.json"
    datasets.lerobot_train(f"--config_path={config}", "--resume=true", native=native)
    for step, before in zip((2, 3, 4), states[1:], strict=True):
        assert weights(saved / f"{step:06d}" / "pretrained_model").keys() == before.keys()
        assert moved(before, weights(saved / f"{step:06d}" / "pretrained_model")) == (False, False)


def test_a_command_that_trains_nothing_of_the_vlm_is_refused(base: Path, data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AptError, match=r"your command trains nothing of it. Write --policy\.train_expert_only=false"):
        train(base, data["labelled"], tmp_path / "out", 0.5)


def test_it_looks_at_the_hosts_own_command_before_the_first_step(
    base: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """As `apt_plugin.hosts.lerobot` does in the training process: prompts, words and steps of a stock policy."""
    caplog.set_level(logging.INFO)
    (out := tmp_path / "out").mkdir()  # as the host's logger may have by now

    def look(kind: str, *more: str) -> None:
        monkeypatch.setattr("sys.argv", ["lerobot-train", *flags(base, data[kind], out), *TRAINS, *more])
        core.look(lambda: preflight.here(""), 0.5)

    look("labelled")
    assert "of the VLM, nothing trains for the first 2 of 4 steps" in caplog.text
    for kind, more, words in (
        (
            "labelled",
            "--policy.tokenizer_max_length=2",
            r"^the longest prompt has \d+ tokens and --policy.tokenizer_max",
        ),
        ("bare", "--seed=4", rf"^it learns from instructions, and test/{data['bare'].name} has none"),
        ("labelled", "--steps=1", "--steps is 1: too few for a warm-up"),
        ("labelled", "--steppes=1", "^the host refuses these flags"),
    ):
        with pytest.raises(AptError, match=words):
            look(kind, more)


def test_the_command_starts_the_hosts_own_training_and_refuses_the_rest(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(staged, "call", lambda command: calls.append(command) or 0)
    host = LerobotAdapter()
    line = ["lerobot-train", f"--policy.path={base}", "--steps=100", "--recipe", "warmup"]
    assert staged.carry_out(host, split([*line, "--apt.frozen_share", "0.25"])) == 0
    assert staged.carry_out(host, split(line)) == 0
    assert [dict(command.env) for command in calls] == [{FROZEN_SHARE: "0.25"}, {FROZEN_SHARE: "0.3"}]
    assert list(calls[0].argv)[-3:] == ["lerobot-train", f"--policy.path={base}", "--steps=100"]
    for flags, words in (
        (["--apt.frozen_share", "1"], r"--apt\.frozen_share is '1'; write a share of the steps"),
        (["--apt.noise_draws", "4"], r"--apt\.noise_draws belongs to --recipe apt"),
    ):
        with pytest.raises(AptError, match=words):
            split([*line, *flags])
    with pytest.raises(AptError, match="this is 'act'"):
        staged.carry_out(host, split(["lerobot-train", "--policy.type=act", "--recipe=warmup"]))
    with pytest.raises(AptError, match="lerobot-eval is not"):
        staged.carry_out(host, split(["lerobot-eval", f"--policy.path={base}", "--recipe=warmup"]))
