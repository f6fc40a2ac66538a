"""The commands of the documents, and the test that runs each of them.

A command is what stands in a fenced `bash` block, or indented in the comment at the head of a recipe or container
file. One that the tests cannot run says so to its reader, in a comment behind it or above it (then for all up to the
next blank line):

    lerobot-eval ... --env.type=libero      # skipped by our tests: needs a simulator
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apt_plugin

ROOT = Path(apt_plugin.__file__).parents[1]
NEEDS = ("a GPU", "a robot", "a simulator", "the network", "a container engine", "more time")
LEROBOT, OPENPI, GROOT = (f"tests/hosts/{host}/test_documented.py" for host in ("lerobot", "openpi", "gr00t"))
INSTALLED = "tests/core/test_installed.py"
SITE = "tests/core/test_site.py"
CI = ".ci/run"  # the same words stand there

# (pages, words of a command) -> who runs it. The first that fits; a command that nobody runs is a failing test.
RUNNERS = (
    ("", r"^pip install .*apt-plugin|^uv pip install .*apt-plugin", INSTALLED),
    ("CONTRIBUTING", r"^uv run mkdocs build", SITE),
    ("README|CONTRIBUTING", r"^uv run (pytest|ruff|pyright)|^uv sync", CI),
    ("", r"scripts/(train|train_pytorch|serve_policy|compute_norm_stats)\.py|openpi|pi05_libero", OPENPI),
    ("examples/tabletop", r"HF_LEROBOT_HOME|pi05_tabletop", OPENPI),
    ("examples/openpi", "", OPENPI),
    ("", r"lerobot-train", LEROBOT),
    ("", r"gr00t|GR00T|LIBERO_PANDA", GROOT),
    ("examples/gr00t", "apt-plugin export", GROOT),
    ("README|examples|configs|lerobot_policy_apt", r"lerobot-|lerobot\.async|apt-plugin|^[A-Z]+=", LEROBOT),
)


@dataclass(frozen=True)
class Command:
    """One command of a page, as a reader copies it."""

    page: str  # relative to the checkout
    line: int
    text: str  # continued lines joined, without the comment
    needs: str  # what the tests lack to run it; empty: they run it

    @property
    def runner(self) -> str:
        """The file that runs it; empty where there is none."""
        found = (to for pages, words, to in RUNNERS if re.match(pages, self.page) and re.search(words, self.text))
        return next(found, "")


def pages() -> list[Path]:
    """What tells readers to type something."""
    named = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "lerobot_policy_apt/README.md"]
    headed = [*sorted((ROOT / "configs").glob("*/*.yaml")), *sorted((ROOT / "containers").glob("*.Containerfile"))]
    return [*named, *sorted((ROOT / "examples").glob("*.md")), *headed]


def commands(page: Path) -> list[Command]:
    """All of a page, in its order."""
    name, lines = str(page.relative_to(ROOT)), page.read_text().splitlines()
    blocks = _fenced(lines) if page.suffix == ".md" else _headed(lines)
    return [command for number, block in blocks for command in _commands(name, number, block)]


def run_by(runner: str) -> dict[str, list[Command]]:
    """Page -> the commands that a file of tests runs, in the order of the page."""
    found = {str(page.relative_to(ROOT)): commands(page) for page in pages()}
    mine = {page: [c for c in listed if not c.needs and c.runner == runner] for page, listed in found.items()}
    return {page: listed for page, listed in mine.items() if listed}


def fences(lines: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    """(number of its first line, language, lines) of each fenced block."""
    opened: tuple[int, str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip().startswith("```"):
            continue
        if opened is None:
            opened = (number + 1, line.strip()[3:])
        else:
            yield *opened, lines[opened[0] - 1 : number - 1]
            opened = None


def _fenced(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    return ((number, block) for number, language, block in fences(lines) if language == "bash")


def _headed(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, 1):
        if not line.startswith("#"):
            return
        if line.startswith("#   ") and not (number > 1 and lines[number - 2].endswith("\\")):
            block = [line[1:].strip()]
            while block[-1].endswith("\\"):
                block.append(lines[number - 1 + len(block)][1:].strip())
            yield number, block


def _commands(page: str, number: int, block: list[str]) -> Iterator[Command]:
    above, text, begin = "", "", number
    for at, line in enumerate(block, number):
        bare, _, comment = line.partition("#") if line.lstrip().startswith("#") else _cut(line)
        needs = comment.partition("skipped by our tests: ")[2].strip().removeprefix("needs ")
        if not text:
            begin = at
        if not bare.strip():
            above = needs or (above if comment else "")
            continue
        text += bare.strip().removesuffix("\\").strip() + " "
        if not bare.rstrip().endswith("\\"):
            yield Command(page, begin, text.strip(), needs or above)
            text = ""


def _cut(line: str) -> tuple[str, str, str]:
    """A command and the comment behind it: two spaces and a `#`, so that a `#` of the command stays."""
    found = re.search(r"\s{2,}# ", line)
    return (line, "", "") if found is None else (line[: found.start()], "#", line[found.end() :])
