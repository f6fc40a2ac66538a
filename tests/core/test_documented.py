"""Every command of the documents is run by a named test, or says beside it what it needs that the tests have not."""

from __future__ import annotations

import re

import pytest

from tests import documents

PAGES = [page for page in documents.pages() if page.is_file()]
COMMANDS = [command for page in PAGES for command in documents.commands(page)]

pytestmark = pytest.mark.skipif(not PAGES, reason="not a checkout: no documents")


def test_every_command_is_run_or_says_what_it_needs() -> None:
    lost = [f"{c.page}:{c.line}: {c.text}" for c in COMMANDS if not (c.needs or c.runner)]
    assert not lost, "no test runs these; see tests/documents.py"
    odd = [f"{c.page}:{c.line}: {c.needs}" for c in COMMANDS if c.needs and c.needs not in documents.NEEDS]
    assert not odd, f"write `# skipped by our tests: needs ` and one of {documents.NEEDS}"


def test_the_runners_run_what_is_given_to_them() -> None:
    """A file that takes its commands from the documents cannot forget one."""
    for runner in {c.runner for c in COMMANDS if c.runner and not c.needs} - {documents.CI}:
        text = (documents.ROOT / runner).read_text()
        assert "run_by(" in text, runner
    script = (documents.ROOT / documents.CI).read_text().replace("$UV", "uv").replace("run --no-sync", "run")
    for command in (c for c in COMMANDS if c.runner == documents.CI and not c.needs):
        for part in command.text.split(" && "):
            tool = " ".join(part.split()[:3])  # a part of the suite is run with all of it
            assert tool in script, f"{documents.CI} does not run {tool!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(documents.ROOT)))
def test_a_command_is_whole_and_stands_in_a_block_that_is_read(page) -> None:
    """Three dots, or a block of no language, would let a command by that nobody can type."""
    lines = page.read_text().splitlines()
    if page.suffix == ".md":
        assert [number for number, language, _ in documents.fences(lines) if not language] == []
        inside = {at for number, _, block in documents.fences(lines) for at in range(number, number + len(block))}
        loose = [at for at, line in enumerate(lines, 1) if re.match(r"    (uv|apt-plugin|lerobot|python|pip)", line)]
        assert [at for at in loose if at not in inside] == [], "an indented block is not read: fence it"
    assert [f"{c.line}: {c.text}" for c in documents.commands(page) if "..." in c.text] == []


def test_the_reader_of_pages_reads_what_a_shell_would() -> None:
    page = documents.ROOT / "README.md"
    block = ["# a title", "one --x=a#b \\", "    --y  # said of it", "two && three", "",
             "# skipped by our tests: needs a GPU", "four", "five   # 5", "", "six"]  # fmt: skip
    found = list(documents._commands(str(page), 10, block))
    assert [(c.line, c.text, c.needs) for c in found] == [
        (11, "one --x=a#b --y", ""), (13, "two && three", ""), (16, "four", "a GPU"), (17, "five", "a GPU"),
        (19, "six", ""),
    ]  # fmt: skip


def test_how_many_commands_there_are(figure) -> None:
    run = {
        name: sum(c.runner == name and not c.needs for c in COMMANDS) for name in sorted({c.runner for c in COMMANDS})
    }
    told = ", ".join(f"{name or 'nobody'} {count}" for name, count in run.items())
    figure(f"{len(COMMANDS)} commands, {sum(bool(c.needs) for c in COMMANDS)} marked; run by {told}")
    assert len(COMMANDS) > 40
