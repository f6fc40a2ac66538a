"""The drift job: it names what a host has changed, blocks nothing, and a wrong flag is told from a finding."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from apt_plugin.probes import Package
from tests import doctored, processes

DRIFT = Path(__file__).parents[2] / ".ci" / "drift"


def drift(tmp_path: Path, *flags: str):
    command = [sys.executable, DRIFT, "--no-releases", "--output", tmp_path / "drift.txt", *flags]
    return processes.run(command, cwd=tmp_path)


def test_what_a_fetched_main_has_changed_is_named_and_blocks_nothing(tmp_path):
    package = Package.find("lerobot")
    if package is None:
        pytest.skip("lerobot does not import here")
    doctored.copy(package, tmp_path / "src", "processor/pipeline.py", r"\Z", "\n# as it is\n")
    done = drift(tmp_path, "--main", f"lerobot={tmp_path}")
    assert done.returncode == 0, done.stderr
    count = int(re.search(r"(\d+) of \1 probes hold", done.stdout)[1])
    file = tmp_path / "src/lerobot/async_inference/constants.py"
    file.write_text(file.read_text().replace("SUPPORTED_POLICIES", "POLICIES"))
    done = drift(tmp_path, "--main", f"lerobot={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert f"{count - 1} of {count} probes hold" in done.stdout
    assert "BROKEN policy server: lerobot.async_inference.constants has no SUPPORTED_POLICIES" in done.stdout
    assert (tmp_path / "drift.txt").read_text() == done.stdout


def test_contracts_without_a_python_are_not_claimed(tmp_path):
    (tmp_path / "gr00t").mkdir()
    done = drift(tmp_path, "--contracts", "--main", f"gr00t={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "contracts: not run" in done.stdout


def test_a_wrong_flag_is_no_finding(tmp_path):
    done = drift(tmp_path, "--main", f"lerobott={tmp_path}")
    assert done.returncode == 2
    assert "is not HOST=CHECKOUT with HOST of lerobot, openpi, gr00t" in done.stderr
