"""Modules that are changed as they are imported, in whichever process: what every sitecustomize.py here shares.

It is loaded by its path: a sitecustomize.py has only its own folder.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping
from typing import Any


class Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: has a module changed once it has run."""

    def __init__(self, changes: Mapping[str, Callable[[Any], None]]):
        self.changes = changes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self.changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            run, change = spec.loader.exec_module, self.changes[name]
            spec.loader.exec_module = lambda module: (run(module), change(module))[0]  # type: ignore[method-assign]
        return spec


def install(changes: Mapping[str, Callable[[Any], None]]) -> None:
    """
    Args:
        changes: module -> what changes it.
    """
    sys.meta_path.insert(0, Finder(changes))
