"""`gr00t/experiment/launch_train.py ... --recipe apt`: the host's way to several embodiments, from a config file."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import subprocess
import sys

import pytest
import yaml

from apt_plugin import files
from apt_plugin.stages import read_record
from tests.hosts.gr00t import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # real host processes; the limit is against a hang

ROBOTS = ("libero_sim", "oxe_droid_relative_eef_relative_joint")


def config(folder, sets, **training):
    """A config file as launch_train reads it."""
    settings = {
        "start_from_checkpoint": "base2", "max_steps": 2, "save_steps": 2, "global_batch_size": 4, "num_gpus": 1,
        "dataloader_num_workers": 0, "optim": "adamw_torch", "output_dir": str(folder / "out"), **training,
    }  # fmt: skip
    data = {
        "datasets": [{"dataset_paths": [str(path)], "embodiment_tag": tag, "mix_ratio": 1.0} for path, tag in sets],
        "num_shards_per_epoch": 10, "episode_sampling_rate": 1.0,
    }  # fmt: skip
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump({"training": settings, "data": data, "model": {"model_name": tiny.VLM}}))
    return path


def train(where, *flags):
    command = [sys.executable, "-m", "apt_plugin", "run", "gr00t/experiment/launch_train.py", *flags, "--recipe", "apt"]
    env = tiny.environment()
    return subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, timeout=1700)


def test_launch_train_follows_the_recipe_on_data_of_its_own_per_stage(where, tmp_path):
    """It dropped the recipe without a word. Stage 1 on other data, by the stage's own config file; the statistics that
    Stage 2 normalises by are Stage 1's."""
    play = tiny.dataset(tmp_path / "play", annotated=False, scale=10.0)
    both = config(tmp_path, [(where / "data", ROBOTS[0])])
    (tmp_path / "first").mkdir()
    first = config(tmp_path / "first", [(play, ROBOTS[0])])
    done = train(
        where, "--load-config-path", str(both), "--training.experiment-name", "e1", "--apt.noise_draws", "2",
        "--training.max-steps", "4", "--apt.stage1.training.max-steps", "2",
        "--apt.stage1.load-config-path", str(first), "--apt.prove", "false", "--apt.listen", "0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    stages = [tmp_path / "out" / f"stage{n}" / "e1" / "checkpoint-2" for n in (1, 2)]
    records = [read_record(folder) for folder in stages]
    assert [(r.stage, r.recipe.noise_draws, r.recipe.norm_stats) for r in records] == [
        (1, 2, "stage1"),
        (2, 2, "stage1"),
    ]
    q99 = [files.read_json(f / "statistics.json")[ROBOTS[0]]["state"]["x"]["q99"][0] for f in stages]
    assert q99[0] == q99[1] > 10
