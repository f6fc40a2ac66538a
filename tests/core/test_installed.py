"""Installed from a wheel, in an environment of its own: what is declared is enough, and every command answers.

With lerobot, the commands of the documents run in such an environment: tests/hosts/lerobot/test_documented.py.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import documents, installed

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None or not (installed.ROOT / "pyproject.toml").is_file(),
    reason="needs hatchling and a checkout: uv sync",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return installed.built(tmp_path_factory.mktemp("built"))["apt_plugin"]


@pytest.fixture(scope="module")
def python(tmp_path_factory, wheel) -> Path:
    """The base installation: no host, nothing that is not declared."""
    found = installed.environment(tmp_path_factory.mktemp("base") / "env", wheel)
    installed.install(found, "pip install apt-plugin", wheel.parent)
    return found


def call(python: Path, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"COLUMNS": "200"}
    program = str(python.parent / "apt-plugin")
    return subprocess.run([program, *argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--help", "apt-plugin listen"),
        ("--version", "apt-plugin 0"),
        ("run --help", "--apt.stage"),
        ("doctor", "pip install 'apt-plugin[lerobot]'"),
        ("listen --policy x --dataset y", ""),
        ("prove x", ""),
        ("export x y", ""),
        ("label --policy x --labelled a --unlabelled b", ""),
        ("bench pi05", ""),
        ("demo", ""),
        *((f"tabletop data out --layout {host}", "") for host in ("lerobot", "openpi", "gr00t")),
        ("tabletop test out --policy x", ""),
        ("cache info x", ""),
        ("cache verify x", ""),
        ("patch openpi", ""),
        ("patch gr00t", ""),
        ("run lerobot-train --policy.type=pi05 --recipe apt", ""),
        ("check lerobot-train --policy.type=pi05 --recipe apt", ""),
        ("run scripts/train.py pi05_libero --exp-name=e1 --recipe apt", ""),
        ("run gr00t/experiment/launch_finetune.py --dataset-path x --recipe apt", ""),
    ],
)
def test_every_command_answers_in_a_sentence(command: str, words: str, python: Path, tmp_path: Path) -> None:
    """Without a host: a sentence that says what to do, never a traceback, and help that needs no framework."""
    done = call(python, *command.split(), cwd=tmp_path)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert words in " ".join(said.split())
    if not words:
        assert done.returncode
        assert re.search(r"^apt-plugin: \S.*[.)]$", said.strip(), re.M), said


def test_the_environment_holds_what_is_declared_and_no_more(python: Path, tmp_path: Path) -> None:
    """Else the tests above would show nothing: no host, no framework, and the plugin from the wheel."""
    code = "import importlib.util as u, apt_plugin; print(apt_plugin.__file__, *map(u.find_spec, ('torch', 'lerobot')))"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([str(python), "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    where, *absent = done.stdout.split()
    assert Path(where).is_relative_to(python.parents[1])
    assert absent == ["None", "None"]


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_an_installer_finds_all_it_needs(version: str, wheel: Path, tmp_path: Path, figure) -> None:
    """From the index, in an empty environment of each supported Python."""
    if (uv := shutil.which("uv")) is None:
        pytest.skip("uv is not installed")
    begin, env = time.monotonic(), {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["UV_PYTHON_DOWNLOADS"] = "never"
    if version == "{}.{}".format(*sys.version_info):
        version = sys.executable
    made = subprocess.run([uv, "venv", "-q", "--python", version, "env"], cwd=tmp_path, env=env, capture_output=True)
    if made.returncode:
        pytest.skip(f"there is no Python {version} here")
    command = [uv, "pip", "install", "-q", "--python", "env", str(wheel)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    if done.returncode and re.search("network|connect|dns|resolve host|Failed to fetch", done.stderr, re.I):
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr
    assert call(tmp_path / "env/bin/python", "doctor", cwd=tmp_path).returncode == 1
    figure(f"Python {version}, base: {time.monotonic() - begin:.0f} s")


def test_the_documents_install_what_there_is() -> None:
    """Each `pip install` of theirs is run here or by the tests of a host."""
    told = {c.text for listed in documents.run_by(documents.INSTALLED).values() for c in listed}
    assert told == {'pip install "apt-plugin[lerobot]"'}  # tests/hosts/lerobot/test_documented.py types it
