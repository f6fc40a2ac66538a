"""What holds for every test: the longest files begin first, no process outlives its test, and figures are shown.

Figures that tests measured are printed together at the end: a parallel run loses what its workers print.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import processes

# Of more than a minute each, the longest first: a parallel run whose last file is one of them waits for it alone.
LONG = (
    "test_documented.py", "test_training.py", "test_cache.py", "test_soak.py", "test_cache_cost.py", "test_demo.py",
    "test_groot_launch.py", "test_cache_distributed.py", "test_groot_distributed.py",
)  # fmt: skip


def pytest_configure(config: Any) -> None:
    if hasattr(config.option, "loadscopereorder"):  # xdist by itself leaves a file of one long test to the end
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


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
