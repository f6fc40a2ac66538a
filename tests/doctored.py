"""A host's files with one line changed, as another release of it would have them; nothing of it is imported."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from apt_plugin.probes import Package, Private, failed, private


def copy(package: Package, to: Path, file: str, old: str, new: str) -> Package:
    """
    Args:
        file: of the package, below its root; old: a pattern that must be there; new: what stands in its place.
    """
    root = to / package.name
    shutil.copytree(package.root, root, ignore=lambda folder, found: [n for n in found if not _kept(Path(folder, n))])
    change(root, file, old, new)
    return Package(package.name, root)


def without(package: Package, to: Path, entry: Private) -> list[str]:
    """What the probe of a private name says where the host calls it something else; that one file is the copy."""
    path = package.file(entry.module)
    assert path is not None
    place = to / path.relative_to(package.root)
    place.parent.mkdir(parents=True)
    place.write_text(re.sub(rf"\b{entry.last}\b", f"{entry.last}_gone", path.read_text()))
    return failed(Package(package.name, to), [private([entry])])


def change(root: Path, file: str, old: str, new: str) -> None:
    """One line more of a copy."""
    text = (root / file).read_text()
    changed = re.sub(old, new, text)
    assert changed != text, f"{file} has no {old!r}"
    (root / file).write_text(changed)


def _kept(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
