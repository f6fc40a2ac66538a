"""The launcher's plan: which process runs with which flags, and every refusal, without starting one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apt_plugin import hosts
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
from apt_plugin.launch import split
from apt_plugin.run import staged

BASE = ["lerobot-train", "--policy.type=pi05", "--policy.pretrained_path=lerobot/pi05_base", "--dataset.repo_id=me/set"]


def plan(*argv: str, stage: str = "1") -> list[str]:
    stages = LerobotAdapter().stages(split([*argv]))
    assert stages is not None
    return list(stages.command(stage).argv)


def test_without_a_recipe_the_host_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inert until named: the same command line, no import of ours in the process."""
    calls = []
    monkeypatch.setattr(staged, "call", lambda command: calls.append(command) or 0)
    assert staged.carry_out(LerobotAdapter(), split(BASE)) == 0
    assert calls[0].argv[1:] == BASE[1:]
    assert Path(calls[0].argv[0]).name == "lerobot-train"
    assert not calls[0].env


def test_apt_flags_without_a_recipe() -> None:
    with pytest.raises(AptError, match=r"no recipe is named. Write --recipe apt"):
        split([*BASE, "--apt.stage", "1"])


@pytest.mark.parametrize("spelling", [["--recipe", "apt"], ["--recipe=apt"]])
def test_stage1_command(spelling: list[str], tmp_path: Path) -> None:
    command = plan(*BASE, f"--output_dir={tmp_path}", "--steps", "1000", *spelling, "--apt.noise_draws", "8",
                   "--apt.stage1.steps=300", "--apt.stage1.dataset.repo_id", "me/play")  # fmt: skip
    assert command[1:4] == ["-m", "apt_plugin.hosts.lerobot", "lerobot-train"]
    for flag in ("--policy.type=pi05_apt", "--policy.stage=1", "--policy.recipe.noise_draws=8", "--steps=300",
                 "--dataset.repo_id=me/play", f"--output_dir={tmp_path}/stage1",
                 "--policy.pretrained_path=lerobot/pi05_base"):  # fmt: skip
        assert command.count(flag) == 1, flag
    assert not [t for t in command if t.startswith(("--apt", "--recipe"))]
    assert "--steps=1000" not in command


@pytest.mark.parametrize(
    ("more", "dtype"),
    [(["--policy.device=cuda"], ["--policy.dtype=bfloat16"]), (["--policy.device=cpu"], []),
     (["--policy.device=cuda", "--policy.dtype=float32"], ["--policy.dtype=float32"])],
)  # fmt: skip
def test_stage1_fits_a_24_gb_card_by_default(more: list[str], dtype: list[str], tmp_path: Path) -> None:
    """On a GPU π is held in bfloat16 unless somebody says otherwise."""
    command = plan(*BASE, f"--output_dir={tmp_path}", "--recipe=apt", *more)
    assert [token for token in command if token.startswith("--policy.dtype")] == dtype


def test_stage2_finds_its_own_prior(trained: Path) -> None:
    """Two-stage peers paste a path between two shell scripts."""
    run = trained.parent
    (run / "stage1").exists() or (run / "stage1").symlink_to(run)
    command = plan(*BASE, f"--output_dir={run}", "--recipe=apt", "--apt.stage2.batch_size=16", stage="2")
    prior = run / "stage1" / "checkpoints" / "000004" / "pretrained_model"
    assert f"--policy.path={prior}" in command
    assert "--policy.stage=2" in command
    assert "--batch_size=16" in command
    assert not [t for t in command if t.startswith(("--policy.type", "--policy.pretrained_path"))]


def test_a_package_to_discover_is_no_field_of_stage_2s_policy(trained: Path) -> None:
    """Beside --policy.path lerobot takes it for one: Stage 2 died after Stage 1 was paid for."""
    run = trained.parent
    (run / "stage1").exists() or (run / "stage1").symlink_to(run)
    found = "--policy.discover_packages_path=apt_plugin.tabletop.host"
    for stage in ("1", "2"):
        command = plan(*BASE, found, f"--output_dir={run}", "--recipe=apt", stage=stage)
        assert "--packages.discover_packages_path=apt_plugin.tabletop.host" in command
        assert found not in command


def test_stage2_without_a_stage1_result(tmp_path: Path) -> None:
    with pytest.raises(AptError, match=r"Stage 2 starts from a Stage-1 result, and .*stage1 holds none"):
        plan(*BASE, f"--output_dir={tmp_path}", "--recipe=apt", "--apt.stage=2", stage="2")


def test_yaml_is_a_view_and_flags_override_it(tmp_path: Path) -> None:
    view = tmp_path / "r.yaml"
    view.write_text("preset: release\nnoise_draws: 2\nfusion: {every: 2}\nstage1: {steps: 5, dataset: {root: /x}}\n")
    request = split([*BASE, "--recipe=apt", f"--apt.config={view}", "--apt.noise_draws=6"])
    assert request.recipe is not None
    assert (request.recipe.noise_draws, request.recipe.fusion.every, request.recipe.fusion.gate) == (6, 2, "channel")
    assert request.stage_flags["1"] == {"steps": "5", "dataset.root": "/x"}


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[3].glob("configs/lerobot/*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_are_recipes(path: Path) -> None:
    assert split([*BASE, "--recipe=apt", f"--apt.config={path}"]).recipe is not None


def test_unknown_field_names_the_nearest() -> None:
    with pytest.raises(AptError, match=r"Unknown recipe field --apt.fusion.knid. Did you mean 'fusion.kind'"):
        split([*BASE, "--recipe=apt", "--apt.fusion.knid=host"])
    with pytest.raises(AptError, match=r"--recipe is 'atp'. Did you mean 'apt'"):
        split([*BASE, "--recipe=atp"])


def test_wrong_policy_type() -> None:
    with pytest.raises(AptError, match=r"needs a VLM with a flow-matching action expert.*--policy.type is 'act'"):
        plan("lerobot-train", "--policy.type=act", "--recipe=apt")
    with pytest.raises(AptError, match=r"--policy.type is 'pi0_fast'"):
        plan("lerobot-train", "--policy.type=pi0_fast", "--recipe=apt")
    with pytest.raises(AptError, match=r"Which policy\? Write --policy.type=pi05"):
        plan("lerobot-train", "--recipe=apt")


def test_policy_path_of_a_plain_checkpoint(plain: dict[str, Path]) -> None:
    """lerobot takes the type from that path, so --policy.path=pi05_base could only ever train the stock policy."""
    command = plan("lerobot-train", f"--policy.path={plain['pi05']}", "--recipe=apt", "--policy.chunk_size=9")
    assert "--policy.type=pi05_apt" in command
    assert f"--policy.pretrained_path={plain['pi05']}" in command
    assert "--policy.image_resolution=[28, 28]" in command  # its own settings come along
    assert command.count("--policy.chunk_size=9") == 1  # and the user's win
    assert not [t for t in command if t.startswith("--policy.path")]


def test_lora_of_the_hosts_own_is_refused_with_the_way_to_have_it(plain: dict[str, Path], tmp_path: Path) -> None:
    """0.7 trains LoRA on `--policy.use_peft=true` alone, which a LoRA checkpoint's config brought into both stages."""
    with pytest.raises(AptError, match=r"Write --apt\.vlm lora in its place"):
        plan(*BASE, "--recipe=apt", "--policy.use_peft=true")
    config = json.loads((plain["pi05"] / "config.json").read_text())
    assert config["use_peft"] is False
    assert not [t for t in plan("lerobot-train", f"--policy.path={plain['pi05']}", "--recipe=apt") if "use_peft" in t]
    (tmp_path / "config.json").write_text(json.dumps(config | {"use_peft": True}))
    with pytest.raises(AptError, match=r"holds LoRA adapters .*Merge them into their base first"):
        plan("lerobot-train", f"--policy.path={tmp_path}", "--recipe=apt")


def test_lora_asks_the_host_for_peft(trained: Path) -> None:
    prior = trained / "last" / "pretrained_model"
    command = plan(
        "lerobot-train", f"--policy.path={prior}", "--recipe=apt", "--apt.stage=2", "--apt.vlm=lora", stage="2"
    )
    assert "--peft.method_type=LORA" in command


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        (["accelerate", "launch", "--num_processes=2"], "accelerate"),
        (["torchrun", "--nproc-per-node=2"], "torchrun"),
    ],
)
def test_distributed_launchers_stay_in_front(front: list[str], expected: str) -> None:
    command = plan(*front, *BASE, "--recipe=apt")
    assert Path(command[0]).name == expected
    assert command[len(front) : len(front) + 3] == ["-m", "apt_plugin.hosts.lerobot", "lerobot-train"]
    module = plan(*front, "-m", "lerobot.scripts.lerobot_train", *BASE[1:], "--recipe=apt")
    assert module[len(front) : len(front) + 3] == ["-m", "apt_plugin.hosts.lerobot", "lerobot-train"]


def test_both_stages_inside_one_distributed_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AptError, match=r"Put the launcher inside: apt-plugin run accelerate launch"):
        staged.carry_out(LerobotAdapter(), split([*BASE, "--recipe=apt"]))
    assert plan(*BASE, "--recipe=apt", "--apt.stage=1")


def test_a_command_of_no_known_host() -> None:
    with pytest.raises(AptError, match=r"No known host in 'python mine.py'"):
        hosts.adapter_for(["python", "mine.py"])


STOCK = ["lerobot-train", "--policy.type=pi05", "--dataset.repo_id=me/set", "--recipe=apt"]


def lengths(command: list[str]) -> list[str]:
    return sorted(t.removeprefix("--") for t in command if "steps=" in t and "action_steps" not in t)


def test_the_hosts_steps_are_the_total_of_both_stages() -> None:
    """Both stages had all of --steps: `--recipe apt` took twice the run that somebody had asked for."""
    stages = LerobotAdapter().stages(split([*STOCK, "--steps=20000"]))
    assert stages is not None
    assert stages.budget.steps == {"1": 1, "2": 19999}
    stages = LerobotAdapter().stages(split([*STOCK, "--steps=20000", "--apt.stage1.share=0.1"]))
    assert stages is not None
    assert stages.budget.steps == {"1": 2000, "2": 18000}
    assert "2000" in stages.budget.says
    scheduled = ["policy.scheduler_decay_steps=3000", "policy.scheduler_warmup_steps=100", "steps=2000"]
    assert lengths(list(stages.command("1").argv)) == scheduled


def test_a_stage_alone_has_the_hosts_steps_and_schedule(trained: Path) -> None:
    prior = trained / "last" / "pretrained_model"
    line = ["lerobot-train", f"--policy.path={prior}", "--recipe=apt", "--apt.stage=2", "--steps=500"]
    whole = ["policy.scheduler_decay_steps=30000", "policy.scheduler_warmup_steps=1000", "steps=500"]
    assert lengths(plan(*line, stage="2")) == whole  # not what its Stage 1 was given
    assert lengths(plan(*STOCK, "--apt.stage=1", "--steps=500")) == whole


def test_what_is_written_for_a_stage_wins() -> None:
    command = plan(*STOCK, "--steps=1000", "--policy.scheduler_warmup_steps=50", "--apt.stage1.steps=7",
                   "--apt.stage1.policy.scheduler_decay_steps=9")  # fmt: skip
    assert lengths(command) == ["policy.scheduler_decay_steps=9", "policy.scheduler_warmup_steps=1", "steps=7"]
    with pytest.raises(AptError, match=r"--steps is 5, the total of both stages, and Stage 1 takes 7"):
        plan(*STOCK, "--steps=5", "--apt.stage1.steps=7")


def test_lengths_are_those_of_the_hosts_own_configs() -> None:
    from lerobot.configs import PreTrainedConfig
    from lerobot.configs.train import TrainPipelineConfig

    from apt_plugin.hosts.lerobot import families, register, schedule

    register()
    assert TrainPipelineConfig.steps == schedule.STEPS
    for kind in families.POLICIES:
        config, known = PreTrainedConfig.get_choice_class(kind), families.of(kind).schedule
        assert {name: getattr(config, name.removeprefix("policy.")) for name in known} == known


@pytest.mark.parametrize(
    ("flags", "vlm", "freeze"),
    [
        ([], "full", []),
        (["--policy.train_expert_only=true"], "frozen", []),
        (["--policy.freeze_vision_encoder=true"], "full", [r"\.vision_tower\."]),
        (["--peft.method_type=LORA"], "lora", []),
        (["--apt.vlm=frozen"], "frozen", []),
        (["--policy.type=groot"], "frozen", []),
        (["--policy.type=groot", "--policy.tune_llm=true"], "full", [r"\.visual\."]),
        (["--policy.type=groot", "--policy.tune_llm=true", "--policy.tune_visual=true"], "full", []),
    ],
)
def test_stage2_trains_of_the_vlm_what_the_command_would_have(flags: list[str], vlm: str, freeze: list[str]) -> None:
    """It stayed frozen whatever the command said, which followed 14 instructions of a hundred less than the host."""
    stages = LerobotAdapter().stages(split([*STOCK, *flags]))
    assert stages is not None
    assert (stages.recipe.vlm, stages.recipe.freeze) == (vlm, freeze)
    command = stages.command("1").argv
    assert f"--policy.recipe.vlm={vlm}" in command
    assert not [token for token in command if token.startswith("--policy.tune_")]


def test_part_of_a_language_model_is_refused() -> None:
    with pytest.raises(AptError, match=r"tune_top_llm_layers is 4: .* Write --policy.tune_llm=true"):
        plan(*STOCK, "--policy.type=groot", "--policy.tune_top_llm_layers=4")
