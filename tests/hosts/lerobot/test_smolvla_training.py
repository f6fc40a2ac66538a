"""SmolVLA through lerobot's own training command: both stages, their cache, proofs and answer; adapters; serving."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from apt_plugin import files
from apt_plugin.hosts.lerobot.checkpoints import last_whole
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
def run(base: dict[str, Path], data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole staged run from a cache, by the stock checkpoint's own path, and its log."""
    out = tmp_path_factory.mktemp("run") / "out"
    command = [
        "apt-plugin", "run", "lerobot-train", f"--policy.path={base['plain']}",
        *flags(data["labelled"], out, steps=4, save_freq=4), "--recipe", "apt", "--apt.stage1.share=0.5",
        f"--apt.cache={out.parent / 'cache'}", "--apt.listen=8",
    ]  # fmt: skip
    return out, datasets.call(*command).stderr


def test_both_stages_train_from_a_cache_prove_and_answer(run: tuple[Path, str]) -> None:
    out, log = run
    first, second = (last_whole(out / f"stage{stage}") / "pretrained_model" for stage in (1, 2))
    one, two = read_record(first), read_record(second)
    assert (one.policy, two.recipe.vlm) == ("smolvla", "frozen")  # as the host's own command would leave the VLM
    assert one.vlm == one.vlm_start == two.vlm_start == two.vlm
    assert files.read_json(second / "config.json")["type"] == "smolvla_apt"
    assert "no image is decoded" in log
    print(sorted(p.name for p in out.iterdir()))
    assert all(proof["passed"] is not False for proof in json.loads((out / "proofs.json").read_text())["proofs"])


def test_stage2_takes_adapters_and_a_run_resumes(run, data, tmp_path: Path) -> None:
    out, _ = run
    prior = last_whole(out / "stage1") / "pretrained_model"
    argv = [f"--policy.path={prior}", "--policy.stage=2", "--policy.recipe.vlm=lora", "--peft.method_type=LORA"]
    argv += ["--policy.recipe.cache="]
    datasets.lerobot_train(*argv, *flags(data["labelled"], tmp_path / "s2", steps=2, save_freq=2))
    saved = tmp_path / "s2/checkpoints/last"
    with safe_open(saved / "pretrained_model/adapter_model.safetensors", "pt") as file:
        keys = list(file.keys())
    assert any("lora_A" in k and ".text_model." in k for k in keys)
    for part in ("lm_expert", "state_proj", "apt_fusion"):
        assert any(part in k for k in keys), part
    config = saved / "pretrained_model/train_config.json"
    datasets.lerobot_train(f"--config_path={config}", "--resume=true", "--steps=3")
    assert read_record(tmp_path / "s2/checkpoints/last/pretrained_model").steps == 3


def test_it_is_served_with_its_processors_and_not_exported(run) -> None:
    from apt_plugin.errors import AptError
    from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
    from apt_plugin.hosts.lerobot.opening import open_policy

    out, _ = run
    folder = last_whole(out / "stage2") / "pretrained_model"
    opened = open_policy(folder)
    raw = {name: torch.rand(1, 3, 28, 28) for name in opened.policy.config.image_features}
    raw["observation.state"] = torch.rand(1, 4)
    batch = opened.preprocessor({**raw, "task": ["push the red cup"]})
    assert opened.policy.select_action(batch).shape == (1, 3)
    with pytest.raises(AptError, match="cannot be exported"):
        LerobotAdapter().export(folder, out / "stock")
