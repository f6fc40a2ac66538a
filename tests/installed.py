"""The plugin as a user's installer leaves it: built in a copy of this checkout, installed in an environment of its own.

The network is left out: what the plugin needs comes, package by package, from the environment that runs the tests, and
only what is declared. Something that the plugin imports and does not declare is missing there, as on a user's machine.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import apt_plugin

ROOT = Path(apt_plugin.__file__).parents[1]
OURS = {"apt-plugin", "lerobot-policy-apt"}


def build(source: Path, target: str, out: Path) -> Path:
    """One sdist or wheel, by the project's own build backend."""
    before = set(out.glob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)], cwd=source, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = set(out.glob("*")) - before
    return made


def built(root: Path) -> dict[str, Path]:
    """sdists and wheels of the plugin and of its companion; each wheel is built from its sdist."""
    copy, out, unpacked = (root / name for name in ("copy", "dist", "unpacked"))
    out.mkdir()
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    made = {}
    for name, folder in (("apt_plugin", copy), ("lerobot_policy_apt", copy / "lerobot_policy_apt")):
        made[f"{name} sdist"] = build(folder, "sdist", out)
        with tarfile.open(made[f"{name} sdist"]) as archive:
            archive.extractall(unpacked, filter="data")
        made[name] = build(unpacked / f"{name}-{apt_plugin.__version__}", "wheel", out)
    return made


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))))


def needed(wheel: Path, extra: str, more: Sequence[str]) -> dict[str, importlib.metadata.Distribution]:
    """Name -> what is installed here, for all that a wheel (and `more`) declares, and what that declares in turn."""
    found: dict[str, importlib.metadata.Distribution] = {}
    left = [(text, {extra}) for text in [*metadata(wheel).get_all("Requires-Dist", []), *more]]
    seen = set()
    while left:
        text, extras = left.pop()
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        if name in OURS or not any(wanted.marker is None or wanted.marker.evaluate({"extra": e}) for e in extras):
            continue
        if (key := (name, frozenset(wanted.extras))) in seen:
            continue
        seen.add(key)
        found[name] = importlib.metadata.distribution(name)
        left += [(more, {"", *wanted.extras}) for more in found[name].requires or ()]
    return found


def environment(folder: Path, wheel: Path, extra: str = "", more: Sequence[str] = ()) -> Path:
    """An environment with what a wheel declares, and without the wheel; its interpreter.

    Args:
        more: requirements beside it.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for distribution in needed(wheel, extra, more).values():
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            # Of files that only name a folder, the one of a host that is installed from its checkout is needed.
            plain = not name.endswith(".pth") or name.startswith("__editable__")
            if plain and not (site / name).exists():
                (site / name).symlink_to(Path(str(distribution.locate_file(name))))
    return folder / "bin/python"


def install(python: Path, command: str, wheels: Path) -> None:
    """`pip install ...` as a document says it, from a folder of wheels alone."""
    path = f"{python.parent}:{os.environ['PATH']}"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"PATH": path, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def unmet() -> list[str]:
    """What the plugin declares and the environment of a host lacks: it is installed there without its dependencies."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lost = []
    for wanted in map(Requirement, declared):
        found = {d.version for d in importlib.metadata.distributions(name=wanted.name)}
        if not any(wanted.specifier.contains(version, prereleases=True) for version in found):
            lost.append(f"{wanted}: {found or 'not there'}")
    return lost
