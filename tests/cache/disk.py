"""A small file system of its own, for what a full or a read-only disk does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import processes

HERE = Path(__file__).resolve().parents[2]


def on_a_small_disk(folder: Path, script: str):
    """A script on a real file system of 4 MB, of which a ballast takes 2.5."""
    mount = 'mount -t tmpfs -o size=4m none . && cd "$PWD" && head -c 2500000 /dev/zero > ballast && exec '
    command = ["unshare", "-rm", "bash", "-c", f'cd "$0" && {mount} "$@"', str(folder)]
    if processes.run([*command, "true"]).returncode:
        pytest.skip("no user namespaces here: a small file system cannot be mounted")
    return processes.run(
        [*command, sys.executable, "-c", script, str(folder)], env={**os.environ, "PYTHONPATH": str(HERE)}
    )
