"""The report of a run: one self-contained HTML page, and the same numbers as JSON.

Pure data in, files out; no framework, no host. Every section turns itself into plain values once (`data()`), and
page, plots, terminal and JSON all show those values, so they cannot disagree.

    write(folder / "report.html", folder / "report.json", [Title(...), Verdict(...), Rates(...), Proofs(...), ...])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.report.page import render
from apt_plugin.report.sections import (
    Code,
    Curves,
    Frames,
    Gates,
    Proofs,
    Rates,
    Scatter,
    Section,
    Settings,
    Strip,
    Table,
    Title,
    Verdict,
)
from apt_plugin.report.stats import compare, compare_seeds, newcombe, wilson
from apt_plugin.report.terminal import console

__all__ = [
    "Code", "Curves", "Frames", "Gates", "Proofs", "Rates", "Scatter", "Section", "Settings", "Strip", "Table", "Title",
    "Verdict", "compare", "compare_seeds", "console", "document", "newcombe", "wilson", "write",
]  # fmt: skip

SCHEMA = 1


def document(sections: Sequence[Section]) -> dict[str, Any]:
    """Everything the report says, as values that JSON can hold.

    Raises:
        AptError: a section whose values contradict each other, or not exactly one Title, in front.
    """
    if [isinstance(section, Title) for section in sections] != [True] + [False] * (len(sections) - 1):
        raise AptError("A report opens with its one Title; put it first and leave out any other.")
    return {"schema": SCHEMA, "sections": [section.data() for section in sections]}


def write(path_html: str | Path, path_json: str | Path, sections: Sequence[Section]) -> None:
    """Write both files, each whole or not at all; nothing is written when a section is refused."""
    whole = document(sections)
    page = render(whole)
    files.write_json(Path(path_json), whole)
    files.write_bytes(Path(path_html), page.encode())
