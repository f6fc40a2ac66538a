"""A host's own formatter on the files of a pull request: ruff, of the version that its pre-commit settings pin."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from apt_plugin.errors import AptError

_PINNED = re.compile(r"ruff-pre-commit\s+(?:#.*\s+)?rev:\s*v?([\d.]+)")


def format_files(checkout: Path, names: Sequence[str]) -> str:
    """Format, and look for what the host's linter would refuse; returns a sentence on what was done.

    Raises:
        AptError: the linter finds something.
    """
    configured = checkout / ".pre-commit-config.yaml"
    pinned = _PINNED.search(configured.read_text()) if configured.is_file() else None
    if pinned is None:
        return "Not formatted: the checkout pins no formatter."
    ruff = next((command for command in _candidates(pinned[1]) if _is(command, pinned[1])), None)
    if ruff is None:  # another version formats unchanged lines in another way
        return f"Not formatted: ruff {pinned[1]}, which the project pins, is not to be had here."
    for task in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
        done = _run([*ruff, *task, *names], checkout)
        if done.returncode:
            raise AptError(f"ruff {pinned[1]} of the project refuses {', '.join(names)}:\n{done.stdout[-2000:]}")
    return f"Formatted by ruff {pinned[1]}, as the project pins it."


def _candidates(version: str) -> Iterator[list[str]]:
    if importlib.util.find_spec("ruff"):
        yield [sys.executable, "-m", "ruff"]
    if own := shutil.which("ruff"):
        yield [own]
    if uv := shutil.which("uv"):
        yield [uv, "tool", "run", "--quiet", f"ruff@{version}"]


def _is(command: list[str], version: str) -> bool:
    return _run([*command, "--version"], Path.cwd()).stdout.split()[-1:] == [version]


def _run(command: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
