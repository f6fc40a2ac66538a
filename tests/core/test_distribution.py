"""What is published: built as a user's installer builds it, from the sdist, in a copy outside this checkout."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import apt_plugin
from apt_plugin.hosts.lerobot.families import POLICIES
from apt_plugin.recipes import shipped
from tests.installed import ROOT, built, metadata

LAB = ("compare", "results", "tests/core", "tests/hosts/lerobot", "study", "report.html")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None or not (ROOT / "pyproject.toml").is_file(),
    reason="needs hatchling and a checkout: uv sync",
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> dict[str, Path]:
    """sdists and wheels of the plugin and of its companion; each wheel is built from its sdist."""
    return built(tmp_path_factory.mktemp("built"))


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_what_users_are_told_to_use_and_nothing_of_the_lab(dist) -> None:
    held = names(dist["apt_plugin"])
    wanted = [f"apt_plugin/configs/{host}/{name}.yaml" for host, files in shipped().items() for name in files]
    wanted += ["apt_plugin/py.typed", "apt_plugin/report/page.css", "apt_plugin/patches/openpi/series.json"]
    assert set(wanted) <= set(held)
    assert {name.partition("/")[0] for name in held} == {"apt_plugin", f"apt_plugin-{apt_plugin.__version__}.dist-info"}
    assert not [name for name in held if any(word in name for word in LAB)]
    # 715 kB at 28 Nov, all of it code, recipes and patches (`trial` came last); plots or results would not fit.
    assert dist["apt_plugin"].stat().st_size < 800_000


def test_the_sdist_holds_no_lab_either(dist) -> None:
    with tarfile.open(dist["apt_plugin sdist"]) as archive:
        held = [name.partition("/")[2] for name in archive.getnames()]
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"} <= set(held)
    assert not [name for name in held if any(word in name for word in LAB)]


def test_named_recipes_are_found_in_the_installed_wheel(dist, tmp_path) -> None:
    """They once lay outside of it: `--apt.config` failed after pip install."""
    zipfile.ZipFile(dist["apt_plugin"]).extractall(tmp_path)
    code = "import apt_plugin as a; from apt_plugin.recipes import shipped; print(a.__file__, "
    code += "a.load_recipe('pi05', 'lerobot').vlm, *map(len, shipped().values()))"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    where, *rest = done.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert rest == ["host", *(str(len(files)) for files in shipped().values())]


def test_the_readme_renders_on_an_index_where_our_files_are_not(dist) -> None:
    pytest.importorskip("readme_renderer", reason="twine is not installed: uv sync")
    for kind in ("apt_plugin", "apt_plugin sdist", "lerobot_policy_apt", "lerobot_policy_apt sdist"):
        done = subprocess.run(
            [sys.executable, "-m", "twine", "check", "--strict", str(dist[kind])], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("apt_plugin", "lerobot_policy_apt"):
        text = metadata(dist[kind]).get_payload()
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert [link for link in links if not link.startswith(("https://", "#"))] == []
    text = metadata(dist["apt_plugin"]).get_payload()
    assert "https://arxiv.org/abs/2606.12366" in text
    assert "![" not in text  # the picture's file is not there either


def test_there_is_one_version(dist) -> None:
    told = {kind: metadata(dist[kind])["Version"] for kind in ("apt_plugin", "lerobot_policy_apt")}
    told["CITATION.cff"] = str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"])
    assert set(told.values()) == {apt_plugin.__version__}, told
    for file in ("pyproject.toml", "lerobot_policy_apt/pyproject.toml"):
        assert "version" in tomllib.loads((ROOT / file).read_text())["project"]["dynamic"]
    assert f"## {apt_plugin.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_metadata_says_who_and_what(dist) -> None:
    told = metadata(dist["apt_plugin"])
    assert told["Author"] == "apt-plugin contributors"
    assert told["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in told.get_all("Classifier")
    assert len(told["Keywords"].split(",")) > 4
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_all("Project-URL") is None  # there is no public address yet; one that leads nowhere helps nobody


def test_the_companion_names_every_policy(dist) -> None:
    """On its page of an index, in its summary, and in the entry for lerobot's list of plugins."""
    told = metadata(dist["lerobot_policy_apt"])
    for text in (told.get_payload(), told["Summary"], (ROOT / "lerobot_policy_apt/LISTING.md").read_text()):
        assert [name for name in POLICIES.values() if name not in text] == []
