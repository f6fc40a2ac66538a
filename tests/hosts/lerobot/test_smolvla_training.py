"""SmolVLA through lerobot's own training command: both stages, their cache, proofs and answer; adapters; acting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from apt_plugin import files, proofs
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
from apt_plugin.hosts.lerobot.checkpoints import last_whole
from apt_plugin.hosts.lerobot.listen import open_listener
from apt_plugin.hosts.lerobot.opening import open_policy
from apt_plugin.hosts.lerobot.programs import flags_of
from apt_plugin.hosts.lerobot.prove import open_subject
from apt_plugin.launch import split
from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets, tiny_smolvla

RUN = [f for f in datasets.COMMON if not f.startswith("--policy.") or "device" in f or "push_to_hub" in f]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("smolvla")
    vlm = tiny_smolvla.vlm_folder(folder / "vlm")
    return {"vlm": vlm, "plain": tiny_smolvla.checkpoint(folder / "plain", vlm)}


def flags(data: Path, out: Path, **more: str | int) -> list[str]:
    own = [f"--{name}={value}" for name, value in more.items()]
    return [
        *RUN, f"--dataset.repo_id=test/{data.name}", f"--dataset.root={data}", f"--output_dir={out}", *own,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(base: dict[str, Path], data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages of a stock checkpoint, from a cache, by the launcher's own flags; in this process."""
    out = tmp_path_factory.mktemp("run") / "out"
    command = [
        "lerobot-train", f"--policy.path={base['plain']}", *flags(data["labelled"], out, steps=4, save_freq=4),
        "--recipe", "apt", "--apt.stage1.share=0.5", f"--apt.cache={out.parent / 'cache'}",
    ]  # fmt: skip
    stages: Any = LerobotAdapter().stages(split(command))
    for stage in "12":
        own = flags_of(stages.command(stage).argv)
        datasets.cache_program("build", *own)
        datasets.cache_program("verify", *own)
        datasets.lerobot_train(*own)
    return out


def result(out: Path, stage: int) -> Path:
    checkpoint = last_whole(out / f"stage{stage}")
    assert checkpoint is not None
    return checkpoint / "pretrained_model"


def test_both_stages_train_from_a_cache(run: Path) -> None:
    one, two = (read_record(result(run, stage)) for stage in (1, 2))
    assert (one.policy, two.recipe.vlm) == ("smolvla", "frozen")  # as the host's own command would leave the VLM
    assert one.vlm == one.vlm_start == two.vlm_start == two.vlm
    assert (one.steps, two.steps) == (2, 2)
    assert files.read_json(result(run, 2) / "config.json")["type"] == "smolvla_apt"


def test_its_checkpoints_are_proven_and_listened_to(run: Path, data: dict[str, Path]) -> None:
    found = proofs.prove(open_subject(result(run, 1)))
    assert found
    assert not [p for p in found if p.passed is False]
    listener = open_listener(str(result(run, 2)), str(data["labelled"]), frames=4)
    assert isinstance(listener.attention([0]), dict | str)
    assert len(listener.gates()) == 4
    noise = np.zeros((2, 1, *listener.frames.actions.shape[1:]), np.float32)
    velocity = listener.context([0, 1], ["push", "place green"]).velocity(noise, np.full((2, 1), 0.5, np.float32))
    assert np.isfinite(velocity).all()
    assert listener.features([0, 1]).shape[0] == 2


def test_stage2_takes_adapters_and_resumes(run: Path, data: dict[str, Path], tmp_path: Path) -> None:
    argv = [f"--policy.path={result(run, 1)}", "--policy.stage=2", "--policy.recipe.vlm=lora"]
    argv += ["--peft.method_type=LORA", "--policy.recipe.cache="]
    datasets.lerobot_train(*argv, *flags(data["labelled"], tmp_path / "s2", steps=2, save_freq=2))
    saved = tmp_path / "s2/checkpoints/last/pretrained_model"
    with safe_open(saved / "adapter_model.safetensors", "pt") as file:
        keys = list(file.keys())
    assert any("lora_A" in key and ".text_model." in key for key in keys)
    for part in ("lm_expert", "state_proj", "apt_fusion"):
        assert any(part in key for key in keys), part
    datasets.lerobot_train(f"--config_path={saved / 'train_config.json'}", "--resume=true", "--steps=3")
    assert read_record(tmp_path / "s2/checkpoints/last/pretrained_model").steps == 3


def test_it_acts_with_its_processors_and_is_not_exported(run: Path, tmp_path: Path) -> None:
    folder = result(run, 2)
    opened = open_policy(folder)
    raw = {name: torch.rand(1, 3, 28, 28) for name in opened.policy.config.image_features}
    raw["observation.state"] = torch.rand(1, 4)
    batch = opened.preprocessor({**raw, "task": ["push the red cup"]})
    assert opened.policy.select_action(batch).shape == (1, 3)
    with pytest.raises(AptError, match="cannot be exported"):
        LerobotAdapter().export(folder, tmp_path / "stock")
