"""`apt-plugin patch <host>`: apply, revert or check the zero-context diffs of `patches/<host>/` on a host's checkout.

A diff without context says where and what, and nothing of the host's text beyond the lines that change. Where it may
go is therefore decided by content: `series.json` holds each file's hash at the commit the series was made for and
behind the last patch, and anything else is refused before a byte is written.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from apt_plugin import files
from apt_plugin.errors import AptError

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True)
class Hunk:
    """Lines to replace in a file: `old` at 1-based `start` (behind line `start` where `old` is empty)."""

    start: int
    old: tuple[str, ...]
    new: tuple[str, ...]


def parse(text: str) -> dict[str, list[Hunk]]:
    """File -> hunks of one zero-context diff.

    Raises:
        AptError: a line that is neither header, hunk, removal nor addition (context is not allowed here).
    """
    found: dict[str, list[Hunk]] = {}
    name, start, old, new = "", 0, [], []

    def close() -> None:
        if start or old or new:
            found[name].append(Hunk(start, tuple(old), tuple(new)))

    opened = False
    for line in text.splitlines():
        match = HUNK.match(line)
        if match or line.startswith("--- "):
            if opened:
                close()
            opened, old, new = bool(match), [], []
            start = int(match[1]) if match else 0
        elif line.startswith("+++ "):
            name = line[4:].split("/", 1)[1]
            found.setdefault(name, [])
        elif opened and line[:1] in "-+":
            (old if line[0] == "-" else new).append(line[1:])
        else:
            raise AptError(f"{line!r} is no line of a zero-context diff.")
    if opened:
        close()
    return found


def apply(text: str, hunks: list[Hunk], where: str) -> str:
    """`text` with `hunks` applied at exactly their lines.

    Raises:
        AptError: a line to remove is not there.
    """
    lines = text.split("\n")
    for hunk in reversed(hunks):
        at = hunk.start - 1 if hunk.old else hunk.start
        seen = tuple(lines[at : at + len(hunk.old)])
        if seen != hunk.old:
            raise AptError(f"{where}:{at + 1} reads {seen!r}, the patch expects {hunk.old!r}.")
        lines[at : at + len(hunk.old)] = hunk.new
    return "\n".join(lines)


def folder_of(host: str) -> Path:
    """Where the patches of a host lie: inside the installed package, or at the root of this repository."""
    package = Path(__file__).parent
    for folder in (package / "patches" / host, package.parent / "patches" / host):
        if (folder / "series.json").is_file():
            return folder
    known = sorted(p.parent.name for p in (package.parent / "patches").glob("*/series.json"))
    raise AptError(f"There are no patches for {host!r}. Known: {', '.join(known) or 'none'}.")


def checkout_of(host: str) -> Path:
    """The checkout that the host's package is imported from (an editable installation)."""
    spec = importlib.util.find_spec(host)
    if spec is None or spec.origin is None:
        raise AptError(f"{host} does not import here, so its checkout is unknown. Write --checkout PATH.")
    for parent in Path(spec.origin).parents:
        if (parent / "pyproject.toml").is_file():
            return parent
    raise AptError(f"{host} is imported from {spec.origin}, which is no checkout. Write --checkout PATH.")


class Series:
    """The patches of one host, applied as a whole or not at all."""

    def __init__(self, host: str, checkout: Path):
        self.folder, self.checkout = folder_of(host), checkout
        self.index = files.read_json(self.folder / "series.json")

    def state(self) -> str:
        """stock | patched.

        Raises:
            AptError: any other content, naming the files.
        """
        seen = {}
        for name in self.index["files"]:
            path = self.checkout / name
            if not path.is_file():
                raise AptError(f"{path} is missing: {self.checkout} is no {self.index['host']} checkout.")
            seen[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for state, key in (("stock", "before"), ("patched", "after")):
            if all(seen[name] == hashes[key] for name, hashes in self.index["files"].items()):
                return state
        odd = [n for n, hashes in self.index["files"].items() if seen[n] not in hashes.values()]
        raise AptError(
            f"{self.checkout} is neither {self.index['host']} {self.index['commit'][:7]} nor that with this series: "
            f"{', '.join(odd) or 'some files are patched and some are not'}. The patches were made for that commit "
            "alone; check it out, undo your changes there, or use the launcher (apt-plugin run), which needs none."
        )

    def result(self) -> dict[str, str]:
        """File -> its text with every patch applied."""
        texts = {name: (self.checkout / name).read_text() for name in self.index["files"]}
        for patch in self.index["patches"]:
            for name, hunks in parse((self.folder / patch).read_text()).items():
                texts[name] = apply(texts[name], hunks, name)
        return texts

    def reverted(self) -> dict[str, str]:
        """File -> its text with every patch undone, last first."""
        texts = {name: (self.checkout / name).read_text() for name in self.index["files"]}
        for patch in reversed(self.index["patches"]):
            for name, hunks in parse((self.folder / patch).read_text()).items():
                texts[name] = apply(texts[name], inverse(hunks), name)
        return texts

    def write(self, texts: dict[str, str], key: str) -> None:
        for name, text in texts.items():
            if hashlib.sha256(text.encode()).hexdigest() != self.index["files"][name][key]:
                raise AptError(f"{name} would not come out as recorded; nothing was written. The patch files differ.")
        for name, text in texts.items():
            mode = (self.checkout / name).stat().st_mode
            files.write_bytes(self.checkout / name, text.encode())
            (self.checkout / name).chmod(mode)


def inverse(hunks: list[Hunk]) -> list[Hunk]:
    """Hunks that undo `hunks`, at the line numbers of the patched file."""
    out, shift = [], 0
    for hunk in hunks:
        at = hunk.start if hunk.old else hunk.start + 1  # 1-based first line of the old text
        start = at + shift
        out.append(Hunk(start if hunk.new else start - 1, hunk.new, hunk.old))
        shift += len(hunk.new) - len(hunk.old)
    return out


def run(host: str, action: str, checkout: Path | None) -> str:
    """Carry out `apt-plugin patch`; returns a sentence.

    Args:
        action: apply | revert | check.
    """
    series = Series(host, checkout or checkout_of(host))
    state, names = series.state(), ", ".join(series.index["patches"])
    where = f"{series.checkout} ({host} {series.index['commit'][:7]})"
    if action == "check":
        return f"{where} is {state}: {names} {'are' if state == 'patched' else 'are not'} applied."
    if action == "apply":
        if state == "patched":
            return f"{where} is patched already: {names}."
        series.write(series.result(), "after")
        undo = f"apt-plugin patch {host} --action revert --checkout {series.checkout}"
        return f"Applied {names} to {where}. Undo with: {undo}."
    if state == "stock":
        return f"{where} has none of {names}; nothing to revert."
    series.write(series.reverted(), "before")
    return f"Reverted {names} in {where}."
