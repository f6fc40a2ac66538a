"""The patches on a copy of the real host: applied, undone, failing-then-passing tests, the host's own command."""

from __future__ import annotations

from tests import processes

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apt_plugin.stages import read_record
from tests.hosts.gr00t import tiny

patching = pytest.importorskip("apt_plugin.patching", reason="the patch command is not in this checkout yet")
pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the host's package; the installed one is never touched."""
    import gr00t

    source = Path(gr00t.__file__).parent
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(source, copy / "gr00t", ignore=shutil.ignore_patterns("__pycache__", "*.mp4"))
    (copy / "pyproject.toml").write_text("")
    # What an installed plugin has and a bare checkout on the path lacks: its entry points.
    info = copy / "apt_plugin-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: apt-plugin\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[gr00t.recipes]\napt = apt_plugin.hosts.gr00t.entry:load\n")
    return copy


def run(checkout, where, *command):
    environment = tiny.environment() | {"PYTHONPATH": os.pathsep.join([str(checkout), str(HERE)])}
    return processes.run([sys.executable, *command], cwd=where, env=environment)


def upstream_tests(checkout):
    folder = str(HERE / "patches/gr00t/tests")
    return run(checkout, checkout, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", folder)


def test_applied_tested_and_undone(checkout, where):
    before = {p: p.read_bytes() for p in sorted(checkout.rglob("*.py"))}
    assert "4 failed, 2 passed" in upstream_tests(checkout).stdout
    patching.run("gr00t", "apply", checkout)
    passed = upstream_tests(checkout)
    assert "6 passed" in passed.stdout, passed.stdout[-2000:]
    patching.run("gr00t", "revert", checkout)
    assert {p: p.read_bytes() for p in sorted(checkout.rglob("*.py"))} == before


def test_hosts_own_command_takes_the_recipe(checkout, where, tmp_path):
    """Both stages by the host's script, with the patch and without the launcher."""
    patching.run("gr00t", "apply", checkout)
    try:
        done = run(
            checkout, where, str(checkout / "gr00t/experiment/launch_finetune.py"), "--base-model-path", "base2",
            "--dataset-path", "data", "--embodiment-tag", tiny.TAG, "--output-dir", str(tmp_path / "out"),
            "--max-steps", "2", "--save-steps", "2", "--global-batch-size", "4", "--dataloader-num-workers", "0",
            "--num-shards-per-epoch", "10", "--episode-sampling-rate", "1.0", "--recipe", "apt",
            "--apt.prove", "false", "--apt.noise_draws", "2",
            "--apt.stage1.max-steps", "2", "--apt.stage2.max-steps", "2",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert read_record(tmp_path / "out" / "stage2" / "checkpoint-2").recipe.noise_draws == 2
        code = "import sys, gr00t.model\nfrom transformers import AutoModel\n" \
               "print(type(AutoModel.from_pretrained(sys.argv[1])).__name__)"  # fmt: skip
        served = run(checkout, where, "-c", code, str(tmp_path / "out" / "stage2" / "checkpoint-2"))
        assert "Gr00tN1d7Apt" in served.stdout, served.stderr[-2000:]
    finally:
        patching.run("gr00t", "revert", checkout)


def test_one_stage_by_the_hosts_own_command_is_looked_at_first(checkout, where, tmp_path):
    """No launcher stands in front, and no other process: the pre-flight runs in this one."""
    data = shutil.copytree(where / "data", tmp_path / "broken")
    path = next((data / "data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    table.at[0, "action"] = np.full(7, np.nan, np.float32)
    table.to_parquet(path)
    patching.run("gr00t", "apply", checkout)
    try:
        done = run(
            checkout, where, str(checkout / "gr00t/experiment/launch_finetune.py"), "--base-model-path", "base2",
            "--dataset-path", str(data), "--embodiment-tag", tiny.TAG, "--output-dir", str(tmp_path / "out"),
            "--recipe", "apt", "--apt.stage", "1",
        )  # fmt: skip
    finally:
        patching.run("gr00t", "revert", checkout)
    assert done.returncode == 1
    assert f"Stage 1: 7 numbers of action in {data} are NaN or infinite" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("checkpoint-*"))
