"""Small archives of what an older plugin wrote: one .tar.xz a host, beside a note of the commit that made it."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
WROTE = "c5d143f"  # the commit of this repository at which make.py was run
_HOME = "@HOME@"


def pack(folder: Path, archive: Path, home: Path) -> int:
    """Everything under `folder`, links kept as links, `home` in its JSON files made relative; the size in bytes."""
    _rewrite(folder, str(home), _HOME)
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, str(path.relative_to(folder)), recursive=False)
    return archive.stat().st_size


def unpack(host: str, folder: Path) -> Path:
    """The archive of a host, unpacked; its files name that folder, or are relative to it."""
    with tarfile.open(HERE / f"{host}.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    _rewrite(folder, _HOME, str(folder))
    return folder


def apt_plugin(*arguments: str | Path) -> int:
    """`apt-plugin <arguments>` in this process, which has paid for the host's import; the exit status."""
    import pytest

    from apt_plugin import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["apt-plugin", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else int(code is not None)


def _rewrite(folder: Path, before: str, after: str) -> None:
    for path in folder.rglob("*.json"):
        if not path.is_symlink() and before in (text := path.read_text()):
            path.write_text(text.replace(before, after))
