"""Pages point only at what a reader of this repository has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import apt_plugin

ROOT = Path(apt_plugin.__file__).parents[1]
LISTED = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
).stdout
FILES = [ROOT / name for name in LISTED.splitlines() if (ROOT / name).is_file()]
PAGES = [path for path in FILES if path.suffix == ".md"]

pytestmark = pytest.mark.skipif(not PAGES, reason="not a checkout: no list of files")


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as a forge makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_nothing_cites_a_page_that_is_not_here() -> None:
    """Notes of the people who wrote this are no evidence for whom cannot read them."""
    foreign = re.compile(r"shared notes|design section|(benchmark2?|method|landscape)\.md|issues show", re.I)
    read = [
        path for path in FILES if path.suffix in (".py", ".md", ".yaml", ".toml", ".patch") and path != Path(__file__)
    ]
    assert len(read) > 200
    assert [str(path.relative_to(ROOT)) for path in read if foreign.search(path.read_text())] == []
