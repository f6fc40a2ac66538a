"""The report of a training run: what both stages' records say, in one HTML file and the same numbers as JSON."""

from __future__ import annotations

from pathlib import Path


def write_summary(output: Path) -> None:
    """Placeholder until the report module lands."""
