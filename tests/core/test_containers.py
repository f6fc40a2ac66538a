"""The container files: they fetch nothing of a host, and the plugin's part of each does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import documents
from tests.installed import ROOT

FILES = sorted((ROOT / "containers").glob("*.Containerfile"))
pytestmark = pytest.mark.skipif(not FILES, reason="not a checkout: no container files")


def steps(file: Path) -> list[tuple[str, str]]:
    """(instruction, the rest) of each line; comments left out."""
    lines = file.read_text().replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")]


def test_there_is_one_for_each_host() -> None:
    assert {file.stem for file in FILES} == {"lerobot", "openpi", "gr00t"}
    told = (ROOT / "containers/README.md").read_text()
    assert all(file.name in told for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_starts_from_the_users_own_image_and_fetches_no_host(file: Path) -> None:
    (arg, host), (start, image), (copy, what), (run, command) = steps(file)
    assert (arg, start, copy, run) == ("ARG", "FROM", "COPY", "RUN")
    assert host.startswith("HOST=")
    assert image == "${HOST}"
    assert what.split()[-2:] == [".", "/apt-plugin"]
    assert not re.search(r"git|curl|wget|https?:|apt-get", command)
    built = [c.text for c in documents.commands(file) if c.text.startswith("docker build")]
    assert f"-t {host.removeprefix('HOST=')} " in built[0]  # what its head says is what it starts from
    assert f"-f containers/{file.name}" in built[1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_install_line_works(file: Path, tmp_path: Path) -> None:
    """In an environment and a copy of ours in place of the container's."""
    if (uv := shutil.which("uv")) is None:
        pytest.skip("uv is not installed")
    command = steps(file)[-1][1].replace("/apt-plugin", str(tmp_path / "apt-plugin"))
    where = re.search(r"--python (\S+)/bin/python", command)
    assert where
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (tmp_path / "apt-plugin" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "apt-plugin" / name)
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = command.replace(where[1], str(tmp_path / "env")).split()
    done = subprocess.run([uv, *words[1:]], env=env, capture_output=True, text=True)
    if done.returncode and re.search("network|connect|dns|resolve host|Failed to fetch", done.stderr, re.I):
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    assert (site / "apt_plugin/configs/openpi/pi05_libero.yaml").is_file()
    assert (site / "lerobot_policy_apt").is_dir() == (file.stem == "lerobot")
