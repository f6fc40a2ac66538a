"""Names that a file takes from another exist there: no type checker sees into code of a host that is not installed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("apt_plugin", "tests")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def defined(path: Path) -> frozenset[str]:
    """Every name that a file binds, at any depth: what is missing is surely missing."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return frozenset(found)


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def missing(path: Path) -> Iterator[str]:
    """What a file imports from ours, or asks of one of our modules, and is not there."""
    modules: dict[str, tuple[str, Path]] = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in PACKAGES:
            source = file_of(str(node.module))
            if source is None:
                yield f"line {node.lineno}: there is no module {node.module}"
                continue
            for alias in node.names:
                inner = file_of(f"{node.module}.{alias.name}")
                if inner is not None:
                    modules[alias.asname or alias.name] = (f"{node.module}.{alias.name}", inner)
                elif alias.name not in defined(source) and not (source.name == "__init__.py" and lazy(source)):
                    yield f"line {node.lineno}: {node.module} has no {alias.name}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module, source = modules[node.value.id]
            known = node.attr.startswith("__") or node.attr in defined(source) or file_of(f"{module}.{node.attr}")
            if not known and not local(path, node.value.id):
                yield f"line {node.lineno}: {module} has no {node.attr}"


def lazy(source: Path) -> bool:
    return "__getattr__" in defined(source)


def local(path: Path, name: str) -> bool:
    """Whether a file binds a module's name to something else, too: then nothing is said about it."""
    bound = {node.arg for node in ast.walk(tree(path)) if isinstance(node, ast.arg)}
    stored = {n.id for n in ast.walk(tree(path)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return name in bound | stored


def files() -> list[Path]:
    return sorted(path for part in (*PACKAGES, "examples") for path in (ROOT / part).rglob("*.py"))


def test_what_is_taken_from_another_file_is_there() -> None:
    found = [f"{path.relative_to(ROOT)}, {words}" for path in files() for words in missing(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "from apt_plugin.stages import NEVER",
        "from apt_plugin import stages\nstages.never()",
        "from tests.nowhere import one",
    ],
)
def test_a_name_that_is_not_there_is_found(tmp_path: Path, text: str) -> None:
    path = tmp_path / "one.py"
    path.write_text(text)
    assert list(missing(path))
