"""examples/openpi.md on tiny data: norm stats, then both stages in one command with a recipe file.

Stage 1 reads other data without instructions, Stage 2 a mix, through workers that import the launcher again.
"""

from __future__ import annotations

import json

import pytest

from apt_plugin.stages import read_record
from tests.hosts.openpi.test_round_trip import (
    REPOSITORY,
    SCRIPTS,
    pytestmark,  # noqa: F401
    start,
    stock_python,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("openpi_walk")


def test_norm_stats_by_the_hosts_own_script(root):
    code = (
        "import sys, tests.hosts.openpi.preload as preload\n"
        f"sys.path.insert(0, {str(SCRIPTS.parent)!r})\n"
        "from scripts import compute_norm_stats\n"
        "found = preload.ROOT / 'assets/tiny_pi0/local/toy/norm_stats.json'\n"
        "found.unlink()\n"
        "compute_norm_stats.main('tiny_pi0')\n"
        "assert found.is_file()\n"
    )
    done = stock_python(root, code)
    assert done.returncode == 0, done.stderr[-3000:]


def test_both_stages_in_one_command(root):
    recipe = [
        "--recipe", "apt", "--apt.config", str(REPOSITORY / "configs/openpi/pi0_libero.yaml"),
        "--apt.stage1.num-train-steps", "1", "--apt.stage2.num-train-steps", "3",
        "--apt.stage1.data.repo-id", "local/play", "--apt.mix.repo_id", "local/play", "--apt.mix.share", "0.5",
        "--apt.listen", "4",
    ]  # fmt: skip
    done = start(root, str(SCRIPTS / "train.py"), "tiny_pi0", "--exp-name=walk", "--num-workers=2", *recipe).wait()
    log = (root / "log.txt").read_text()
    assert done == 0, log[-3000:]
    assert "replaced openpi.training.data_loader.create_torch_dataset" in log  # every replacement is told
    folders = [root / f"checkpoints/tiny_pi0_apt{stage}/walk/{last}/assets" for stage, last in ((1, 0), (2, 2))]
    first, second = (read_record(folder) for folder in folders)
    assert (first.stage, second.stage, second.stage1["weights"]) == (1, 2, first.weights)
    assert second.recipe.mix.share == 0.5
    # Statistics follow the data that was trained on: Stage 1's set has twice the scale, and Stage 2 goes on with it
    for folder, repo in zip(folders, ("local/play", "local/toy"), strict=True):
        told = json.loads((folder / "apt" / repo / "norm_stats.json").read_text())["norm_stats"]
        assert told["state"]["std"][0] == 2
