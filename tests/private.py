"""Which private names of others our files use, by their syntax: nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from apt_plugin.probes import Package

REACHES = {
    "getattr",
    "setattr",
    "hasattr",
    "delattr",
    "set",
    "wrap",
    "replaced",
    "first_call",
}  # calls that take a name as text


def private(name: object) -> bool:
    """Whether a name is private to somebody, and not one of those that we add to a host's objects."""
    return isinstance(name, str) and name.startswith("_") and name.isidentifier() and _kind(name)


def _kind(name: str) -> bool:
    return name[1:2].isalpha() and not name.startswith("_apt_")


def trees(folder: Path) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}


def _classes(found: Iterable[ast.Module]) -> dict[str, ast.ClassDef]:
    return {n.name: n for tree in found for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}


def _bases(cls: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).rpartition(".")[2] for base in cls.bases]


def _line(cls: ast.ClassDef, ours: dict[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    """Our classes above this one."""
    for base in _bases(cls):
        if base in ours and ours[base] is not cls:
            yield ours[base]
            yield from _line(ours[base], ours)


def _defined(cls: ast.ClassDef) -> set[str]:
    """Methods and fields."""
    out = {n.name for n in cls.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    for n in cls.body:
        targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
        out |= {t.id for t in targets if isinstance(t, ast.Name)}
    return out


def _kept(cls: ast.ClassDef) -> set[str]:
    """What its methods set on themselves."""
    return {
        n.attr
        for n in ast.walk(cls)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and ast.unparse(n.value) == "self"
    }


def used(folder: Path) -> dict[str, str]:
    """Private name that none of our files under `folder` binds -> a place where it is used."""
    files = trees(folder)
    ours = _classes(files.values())
    every = [n for tree in files.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    methods = {name for cls in every for name in _defined(cls)}
    modules = {n.name for tree in files.values() for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    out: dict[str, str] = {}
    for path, tree in files.items():
        inside = {id(n): cls for cls in _classes([tree]).values() for n in ast.walk(cls)}
        for node in ast.walk(tree):
            for name in _names(node):
                cls = inside.get(id(node))
                above = [] if cls is None else list(_line(cls, ours))
                whose = ast.unparse(node.value) if isinstance(node, ast.Attribute) else ""
                own = methods | modules
                if whose in ("self", "cls") and cls is not None:
                    own = own | _kept(cls) | {name for one in above for name in _kept(one)}
                elif whose.startswith("super("):
                    own = {name for one in above for name in _defined(one)}
                elif whose.startswith("self._"):  # a class and its companion in one file
                    own = own | {name for one in _classes([tree]).values() for name in _kept(one)}
                if name not in own:
                    out.setdefault(name, f"{path.name}:{getattr(node, 'lineno', '?')}")
    return out


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Attribute) and private(node.attr):
        return [node.attr]
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in REACHES:
            return [a.value for a in node.args if isinstance(a, ast.Constant) and private(a.value)]
    if isinstance(node, ast.ImportFrom) and not node.level and not (node.module or "").startswith("apt_plugin"):
        parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        return [part for part in parts if private(part)]
    return []


def overrides(folder: Path, package: Package) -> dict[str, str]:
    """Private method of the host that a class of ours, with a base that is not ours, has as well -> where."""
    files = trees(folder)
    ours = _classes(files.values())
    theirs = {name for cls in _classes(trees(package.root).values()).values() for name in _defined(cls)}
    out = {}
    for path, tree in files.items():
        for cls in _classes([tree]).values():
            line = [cls, *_line(cls, ours)]
            if any(base not in ours and base not in _PLAIN for one in line for base in _bases(one)):
                out |= {name: f"{path.name}: {cls.name}" for name in _defined(cls) & theirs if private(name)}
    return out


_PLAIN = {"ABC", "Protocol", "Exception", "NamedTuple", "Enum", "object"}
