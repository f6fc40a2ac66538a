"""Calls run one way: cli -> hosts -> backends -> core; nothing imports the comparison, which imports the plugin;
and importing the plugin imports no framework.

A core file with one convenient `import torch` in it makes the plugin unimportable in a JAX host's environment, and
nobody notices where all frameworks are installed, which is here.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import apt_plugin
from tests import processes

ROOT = Path(apt_plugin.__file__).parent
FRAMEWORKS = {"torch", "torchvision", "jax", "jaxlib", "flax", "optax", "transformers", "lerobot", "openpi", "gr00t"}
HOSTS = {"lerobot", "openpi", "gr00t"}
COMPARISON = {"apt_compare", "examples"}  # a project of its own, which a user of the plugin does not have

CORE, BACKENDS, HOST, TOP = range(4)
# By the first part of the module's path; what is not named here is core, so a new file has to earn its place.
LAYERS = {"backends": BACKENDS, "hosts": HOST, "cli": TOP, "doctor": TOP, "__main__": TOP, "listen_command": TOP,
          "passed_commands": TOP, "label_command": TOP, "tabletop_command": TOP,
          "cache_command": TOP, "trial_command": TOP, "tabletop": TOP, "libero": TOP}  # fmt: skip


def layer_of(module: str) -> int:
    """Of a dotted name inside apt_plugin, e.g. "apt_plugin.hosts.lerobot.flow"."""
    if module.startswith("apt_plugin.hosts.adapter"):
        return CORE  # the contract: it stands beside the hosts and knows none
    part = [*module.split("."), ""][1]
    return LAYERS.get(part, CORE)


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, root: Path) -> set[str]:
    """Dotted names that a file imports anywhere, also inside functions; except for type checkers only."""
    tree = ast.parse(path.read_text(), str(path))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module_of(path, root).split(".") + ([""] if path.name == "__init__.py" else [])
                base = ".".join([*here[: -node.level], *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def offences(root: Path) -> list[str]:
    """Imports against the grain, as "file imports name"."""
    out = []
    for path in sorted(root.rglob("*.py")):
        layer = layer_of(module_of(path, root))
        forbidden = {CORE: FRAMEWORKS, BACKENDS: HOSTS}.get(layer, set()) | COMPARISON
        for name in sorted(imports(path, root)):
            head = name.partition(".")[0]
            upward = head == root.name and layer_of(name) > layer
            if upward or head in forbidden:
                out.append(f"{path.relative_to(root)} imports {name}")
    return out


def test_nothing_imports_against_the_grain() -> None:
    assert (ROOT / "backends" / "jax_fusion.py").is_file()  # the walk below has something to walk over
    assert offences(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line", "bad"),
    [
        ("curve.py", "import torch", True), ("curve.py", "def f():\n    from torch import nn", True),
        ("curve.py", "import jax.numpy as jnp", True), ("curve.py", "from apt_plugin import backends", True),
        ("curve.py", "from apt_plugin.hosts.lerobot import flow", True), ("curve.py", "from . import cli", True),
        ("report/page.py", "from ..backends import torch_pi", True), ("report/__init__.py", "import lerobot", True),
        ("backends/x.py", "from apt_plugin.hosts import HOSTS", True), ("backends/x.py", "from lerobot import a", True),
        ("cli.py", "from apt_compare.stats import rate", True), ("tabletop/x.py", "import examples.compare", True),
        ("hosts/x/y.py", "from apt_plugin.cli import main", True), ("hosts/x/y.py", "from ...doctor import a", True),
        ("curve.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", False),
        ("curve.py", "import numpy\nfrom . import files", False), ("backends/x.py", "import torch", False),
        ("hosts/x/y.py", "import lerobot\nfrom apt_plugin.backends import torch_pi", False),
        ("cli.py", "from apt_plugin.hosts import HOSTS", False), ("report/a.py", "from .html import tag", False),
    ],
)  # fmt: skip
def test_the_walk_would_notice(file: str, line: str, bad: bool, tmp_path: Path) -> None:
    path = tmp_path / "apt_plugin" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    assert bool(offences(tmp_path / "apt_plugin")) == bad


def core_modules() -> list[str]:
    modules = {module_of(path, ROOT) for path in ROOT.rglob("*.py")}
    return sorted(name for name in modules if layer_of(name) == CORE)


@pytest.mark.parametrize("what", ["package", "core", "cli"])
def test_importing_the_plugin_imports_no_framework(what: str) -> None:
    """Contract 7, in a fresh interpreter: what a third module pulls in counts too. The cli is on the list because
    `apt-plugin --help` must not take ten seconds."""
    names = {"package": ["apt_plugin"], "core": core_modules(), "cli": ["apt_plugin.cli"]}[what]
    assert what != "core" or {"apt_plugin.fusion", "apt_plugin.stages"} <= set(names)
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
print(sorted({FRAMEWORKS} & set(sys.modules)))
"""
    done = processes.run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_outside_the_hosts_nothing_is_logged_by_the_root_logger() -> None:
    """A user who wants less of one part silences it by its name; the root logger's lines have none."""
    calls = re.compile(r"\blogging\.(debug|info|warning|error|exception|critical)\(")
    files = [path for path in ROOT.rglob("*.py") if "hosts" not in path.relative_to(ROOT).parts]
    assert len(files) > 50
    assert [str(path.relative_to(ROOT)) for path in files if calls.search(path.read_text())] == []
