"""Without openpi these tests cannot run: one visible line says so, with the reason."""

from __future__ import annotations

import importlib.util
import os

import pytest

# The persistent compilation cache returns wrong numbers on CPU with jaxlib 0.5.3 (beta draws become constant).
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

MISSING = importlib.util.find_spec("openpi") is None
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_configure(config) -> None:
    # Known to pytest-timeout, which openpi's environment need not have
    config.addinivalue_line("markers", "timeout(seconds): limit of one test")


def pytest_report_header() -> str | None:
    return "tests/hosts/openpi: SKIPPED, openpi does not import here" if MISSING else None


def pytest_terminal_summary(terminalreporter) -> None:
    if MISSING:
        terminalreporter.write_line("SKIPPED tests/hosts/openpi: openpi does not import in this environment")


@pytest.fixture(scope="session", autouse=True)
def _small_models():
    from tests.hosts.openpi.tiny import small

    with small():
        yield
