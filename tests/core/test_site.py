"""The documentation as a site: every page is in it, every link of every page leads somewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import documents

pytest.importorskip("material", reason="mkdocs-material is not installed")
ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "containers", "examples", ".ci/site")


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """By the documented command, in this environment and into a folder of the test."""
    (documented,) = documents.run_by(documents.SITE)["CONTRIBUTING.md"]
    command = [sys.executable, "-m", *documented.text.split()[2:], "-d", str(out)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=root)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    root.mkdir()
    for name in PAGES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "src", "results"))
        else:
            shutil.copy(ROOT / name, root / name)
    return root


def test_the_site_is_built_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    start = (tmp_path / "site/index.html").read_text()
    assert "whatever you tell it" in start
    pages = [path for name in PAGES for path in [ROOT / name, *(ROOT / name).rglob("*.md")] if path.suffix == ".md"]
    for page in pages:
        place = page.relative_to(ROOT).with_suffix("")
        place = place.parent if place.name == "README" else place
        assert (tmp_path / "site" / place / "index.html").is_file(), page
    # The theme is told to bring its own fonts along: a page loads nothing from elsewhere.
    assert "fonts.googleapis.com" not in start


@pytest.mark.parametrize("link", ["nowhere.md", "listen.md#no-such-heading"])
def test_a_link_to_nothing_fails(copied: Path, tmp_path: Path, link: str) -> None:
    page = copied / "examples/cost.md"
    page.write_text(page.read_text() + f"\n[see]({link})\n")
    done = build(copied, tmp_path / "site")
    assert done.returncode != 0
    assert link.partition("#")[0] in done.stderr


def test_a_page_that_no_menu_names_fails(copied: Path, tmp_path: Path) -> None:
    (copied / "examples/forgotten.md").write_text("# Forgotten\n")
    done = build(copied, tmp_path / "site")
    assert done.returncode != 0
    assert "forgotten.md" in done.stderr
