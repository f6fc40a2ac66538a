"""The patches of a host as commits, made in a copy of its real checkout; the checkout itself is not touched."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from apt_plugin import patching, pulls
from apt_plugin.errors import AptError
from tests import processes

REPOSITORY = Path(__file__).parents[1]
PLAIN = os.environ | {"GIT_LFS_SKIP_SMUDGE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def checkout(host: str) -> Path:
    """The host's git checkout; the test is skipped where there is none, or another commit."""
    try:
        root = patching.checkout_of(host)
        state = patching.Series(host, root).state()
    except AptError as error:
        pytest.skip(str(error))
    if state != "stock" or not (root / ".git").exists():
        pytest.skip(f"{root} is {state}, or no git checkout")
    return root


def git(root: Path, *command: str | Path) -> str:
    done = processes.run(["git", "-C", root, "-c", "user.name=A", "-c", "user.email=a@b.org", *command], env=PLAIN)
    assert done.returncode == 0, done.stderr
    return done.stdout


def clone(source: Path, to: Path) -> Path:
    git(to.parent, "clone", "--quiet", "--shared", source, to)
    git(to, "config", "user.name", "Ada")
    git(to, "config", "user.email", "ada@users.org")
    return to


def made(host: str, tmp_path: Path, number: int) -> None:
    """`apt-plugin patch HOST --as-branch ... --only NUMBER` on a copy, then `git am` on another."""
    source = checkout(host)
    copy, fresh = clone(source, tmp_path / "copy"), clone(source, tmp_path / "fresh")
    index = patching.Series(host, source).index
    (patch,) = (name for name in index["patches"] if name.startswith(f"{number}-"))
    pull = pulls.Pull.read(patching.folder_of(host), patch)
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    flags = ["--checkout", str(copy), "--as-branch", "fix/one", "--only", str(number), "--base", "origin/HEAD"]
    command = [sys.executable, "-m", "apt_plugin.cli", "patch", host, *flags]
    done = processes.run(command, cwd=tmp_path, env=PLAIN | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    assert pull.text in done.stdout
    git(copy, "format-patch", "--quiet", "-o", tmp_path / "mail", "origin/HEAD..fix/one")
    git(fresh, "am", next((tmp_path / "mail").iterdir()))
    assert git(fresh, "diff", "HEAD", "--stat") == ""
    assert git(fresh, "log", "-1", "--format=%an|%s").strip() == f"Ada|{pull.subject}"
    for name in patching.parse((patching.folder_of(host) / patch).read_text()):
        assert hashlib.sha256((fresh / name).read_bytes()).hexdigest() == index["files"][name]["after"]
