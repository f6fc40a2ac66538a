"""The default recipe on lerobot's own commands: `--steps` is the total, and the VLM trains as by the host."""

from __future__ import annotations

from pathlib import Path

from apt_plugin import files
from apt_plugin.hosts.lerobot.checkpoints import last_whole
from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets


def test_both_stages_of_the_default_run(data, plain, tok: str, tmp_path: Path) -> None:
    """Both had all of --steps, and Stage 2 kept the VLM frozen, which the same command without the recipe would not."""
    out = tmp_path / "run"
    command = [
        "apt-plugin", "run", "lerobot-train", "--policy.type=pi05", f"--policy.pretrained_path={plain['pi05']}",
        *datasets.flags(data["labelled"], tok, steps=10, save_freq=10, output_dir=out), "--recipe", "apt",
        "--apt.listen=0",
    ]  # fmt: skip
    log = datasets.call(*command).stderr
    assert "Stage 2 trains the VLM, at 0.5 of the expert's rate, as your own command would" in log
    assert "Of --steps 10, the total of both stages: Stage 1 1" in log
    first, second = (last_whole(out / f"stage{stage}") / "pretrained_model" for stage in (1, 2))
    one, two = read_record(first), read_record(second)
    assert (one.steps, two.steps) == (1, 9)
    assert (one.recipe.vlm, two.recipe.vlm) == ("full", "full")
    assert one.vlm == one.vlm_start == two.vlm_start != two.vlm
    told = [files.read_json(folder / "config.json") for folder in (first, second)]
    assert [config["scheduler_decay_steps"] for config in told] == [3000, 27000]
    again = datasets.call(*command, "--resume=true").stderr
    assert "Stage 1 is finished" in again
    assert "Stage 2 is finished" in again
