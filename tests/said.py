"""The flags that the texts of a piece of code name, against those that exist: a message must not name another."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from apt_plugin import cli, tabletop_command
from apt_plugin.trial import options

FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
OURS = {f"--{spec.name.replace('_', '-')}" for command in (*cli.COMMANDS.values(), *tabletop_command.COMMANDS.values())
        for spec in dataclasses.fields(command)}  # fmt: skip
OURS |= {options.PREFIX + name for name in options.KNOWN}  # a trial's are not parsed by tyro
RUN = {"--recipe", "--help"}  # of `apt-plugin run`, which passes the rest on


def flags(path: Path) -> Iterator[str]:
    """Of every text in a file that is no docstring."""
    tree = ast.parse(path.read_text())
    silent = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            silent |= {id(part) for part in node.values}
            yield from FLAG.findall(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield from FLAG.findall(node.value)


def wrong(place: Path, known: set[str]) -> list[str]:
    """ "file: flag" of every flag below `place` that is not known, and begins none; those of a recipe are left out."""
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    return [
        f"{path.name}: {flag}"
        for path in files
        if path.suffix == ".py"
        for flag in flags(path)
        if not (flag in known or flag.startswith(("--apt", "--trial")) or any(k.startswith(f"{flag}.") for k in known))
    ]
