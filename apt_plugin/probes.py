"""What the plugin relies on in a host, looked up in the host's own files: names, parameters, fields, sentences.

A version number does not say it: openpi and Isaac GR00T never change theirs, and lerobot's main keeps one for weeks.
The host is read, not imported: a launcher that only starts processes would pay for torch and transformers.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

Check = Callable[["Package"], "str | None"]  # why it does not hold; None when it does


@dataclass(frozen=True)
class Probe:
    """One thing that the plugin relies on.

    Args:
        name: what breaks without it, in a few words.
        check: looks it up.
    """

    name: str
    check: Check


@dataclass(frozen=True)
class Package:
    """The files of an importable package.

    Args:
        name: its import name; root: its folder.
    """

    name: str
    root: Path

    @classmethod
    def find(cls, name: str) -> Package | None:
        """The package that `import name` would take; None where there is none."""
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        return cls(name, Path(places[0])) if places else None

    def is_here(self) -> bool:
        """Whether it is what an import would take, so that the libraries of this environment are its own."""
        found = Package.find(self.name)
        return found is not None and found.root.resolve() == self.root.resolve()

    def file(self, module: str) -> Path | None:
        """Of a module's name below the package ("" is the package itself)."""
        base = self.root.joinpath(*module.split(".")) if module else self.root
        found = (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())
        return next(found, None)

    def digest(self, file: str) -> str:
        """SHA-256 of a file below the root; "" where there is none."""
        path = self.root / file
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    def tree(self, module: str) -> ast.Module | None:
        """Its syntax tree; None where there is no such module, or one that cannot be read."""
        path = self.file(module)
        return None if path is None else _parsed(path)

    def holds(self, module: str, name: str) -> bool:
        """Whether `name` ("Class" or "Class.member") is bound in a module, or is a module below it."""
        tree = self.tree(module)
        if tree is None:
            folder = self.root.joinpath(*module.split("."))
            return self.file(f"{module}.{name}") is not None or (folder / name).is_dir()
        head, _, member = name.partition(".")
        found = _bound(tree)
        if not member:
            starred = "*" in found  # what a star brings is not looked up
            return head in found or starred or self.file(f"{module}.{head}".lstrip(".")) is not None
        body = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == head), None)
        return body is not None and member in _members(body)

    def function(self, module: str, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """A function, or "Class.method"."""
        node: ast.AST | None = self.tree(module)
        for part in name.split("."):
            inside = getattr(node, "body", [])
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            node = next((n for n in inside if isinstance(n, kinds) and n.name == part), None)
        return node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None


def names(module: str, *wanted: str) -> Check:
    """Every name is bound in a module of the package ("Class.member" in a class there)."""

    def check(package: Package) -> str | None:
        missing = [name for name in wanted if not package.holds(module, name)]
        return f"{package.name}.{module} has no {', '.join(missing)}" if missing else None

    return check


def parameters(module: str, function: str, *wanted: str, first: bool = False) -> Check:
    """A function takes these parameters; with `first`, they are its first ones in this order (`self` left out)."""

    def check(package: Package) -> str | None:
        node, where = package.function(module, function), f"{package.name}.{module}.{function}"
        if node is None:
            return f"{where} does not exist"
        found = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        found = found[1:] if found[:1] == ["self"] else found
        if first and tuple(found[: len(wanted)]) != wanted:
            return f"{where} begins with ({', '.join(found)}), not ({', '.join(wanted)})"
        missing = [name for name in wanted if name not in found]
        return f"{where} takes no {', '.join(missing)}" if missing and not node.args.kwarg else None

    return check


def says(module: str, *texts: str) -> Check:
    """A module's strings hold these texts; a value inside an f-string is written {}."""

    def check(package: Package) -> str | None:
        tree = package.tree(module)
        found = "" if tree is None else "\0".join(_strings(tree))
        missing = [text for text in texts if text not in found]
        return f"{package.name}.{module} does not say {', '.join(map(repr, missing))}" if missing else None

    return check


def every(*checks: Check) -> Check:
    """All of the checks hold."""
    return lambda package: next((why for check in checks if (why := check(package)) is not None), None)


@dataclass(frozen=True)
class Private:
    """A private name that the plugin uses, since no public one does the same.

    Args:
        module: below the package; name: in it ("Class.member"); why: what it is used for.
        package: another one of the host's environment; "" is the host itself.
    """

    module: str
    name: str
    why: str
    package: str = ""

    @property
    def last(self) -> str:
        """As it stands in a file of ours."""
        return self.name.rpartition(".")[2]


def private(entries: Sequence[Private]) -> Probe:
    """They are all there still: nobody promised it."""

    def check(package: Package) -> str | None:
        for entry in entries:
            place = package if not entry.package else Package.find(entry.package) if package.is_here() else None
            if place is not None and (why := names(entry.module, entry.name)(place)) is not None:
                return f"{why} (private: {entry.why})"
        return None

    return Probe("private names", check)


def imports_of(folder: Path) -> Check:
    """Every name that our files in `folder` import from the package is there."""

    def check(package: Package) -> str | None:
        for path in sorted(folder.rglob("*.py")):
            for module, name in _imported(_parsed(path), package.name):
                below = module.removeprefix(package.name).lstrip(".")
                if not (package.holds(below, name) if name else package.file(below)):
                    return f"{path.name} imports {name or 'it'} from {module}, which has none"
        return None

    return check


def failed(package: Package, probes: Iterable[Probe]) -> list[str]:
    """ "name: why" of each probe that does not hold."""
    return [f"{probe.name}: {why}" for probe in probes if (why := probe.check(package)) is not None]


@functools.lru_cache(maxsize=512)
def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return ast.Module([], [])  # a module of which nothing can be relied on


def _bound(tree: ast.Module) -> set[str]:
    """Names at the top of a module, those behind `if` and `try` among them."""
    found: set[str] = set()
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        found |= _bindings(node)
        if isinstance(node, ast.If | ast.Try | ast.With):
            todo += [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            todo += [n for handler in getattr(node, "handlers", []) for n in handler.body]
    return found


def _bindings(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def _members(node: ast.ClassDef) -> set[str]:
    """Methods, fields, and what the methods set on `self`."""
    own = {name for part in node.body for name in _bindings(part)}
    return own | {
        n.attr
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and getattr(n.value, "id", "") == "self"
    }


def _strings(tree: ast.Module) -> list[str]:
    """Every string of a module, an f-string's values as {}."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def _imported(tree: ast.Module, package: str) -> Sequence[tuple[str, str]]:
    """(module, name) of each import from a package; the name is "" where the module itself is imported."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == package:
            found += [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == package]
    return found
