"""The part of a Markdown page that a command renews: what stands between two marks. The rest is a person's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from apt_plugin import files
from apt_plugin.errors import AptError

Marks = tuple[str, str]


def renewed(page: str, marks: Marks, lines: Sequence[str]) -> str:
    """The page with these lines between its marks."""
    begin, end = marks
    head, _, rest = page.partition(begin)
    return "\n".join([f"{head}{begin}", "", *lines, end]) + rest.partition(end)[2]


def write(path: Path, marks: Marks, renew: Callable[[str], str]) -> None:
    """
    Raises:
        AptError: no page there, or one without the marks.
    """
    page = path.read_text() if path.is_file() else ""
    if any(page.count(mark) != 1 for mark in marks):
        raise AptError(f"{path} holds not one pair of lines {marks[0]} and {marks[1]}; write both where results stand.")
    files.write_bytes(path, renew(page).encode())
