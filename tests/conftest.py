"""Figures that tests measured, printed together at the end: a parallel run loses what its workers print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import processes


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Call with a line to show; it also reaches the junit file."""
    return lambda text: record_property("figure", text)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Also behind a time-out, and behind a set-up that failed: no fixture would see that."""
    processes.end_all()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    found = [
        (report.nodeid, value)
        for group in terminalreporter.stats.values()
        for report in group
        if getattr(report, "when", "") == "call"
        for name, value in getattr(report, "user_properties", ())
        if name == "figure"
    ]
    if found:
        terminalreporter.section("figures")
    for test, value in sorted(found, key=lambda pair: pair[0]):
        terminalreporter.write_line(f"{test.rpartition('::')[2]}: {value}")
