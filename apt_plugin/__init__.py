"""Action expert PreTraining (APT) as a recipe inside openpi, Isaac GR00T and lerobot.

Importing this package imports no deep-learning framework and changes nothing in a host: a host is touched only when a
run names the recipe (`--recipe apt`). What stands in `__all__` is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"  # the one place: pyproject.toml, the companion distribution and CITATION.cff take it from here

if TYPE_CHECKING:
    from apt_plugin.errors import AptError
    from apt_plugin.listen import listen
    from apt_plugin.listen.subject import Frames, Listener
    from apt_plugin.proofs import Outcome, Subject, prove
    from apt_plugin.recipe import Fusion, Recipe
    from apt_plugin.recipes import load_recipe

__all__ = [
    "AptError", "Frames", "Fusion", "Listener", "Outcome", "Recipe", "Subject", "__version__", "listen", "load_recipe",
    "prove",
]  # fmt: skip

_HOMES = {
    "AptError": "errors", "Frames": "listen.subject", "Fusion": "recipe", "Listener": "listen.subject",
    "Outcome": "proofs", "Recipe": "recipe", "Subject": "proofs", "load_recipe": "recipes", "prove": "proofs",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """PEP 562: a name of `__all__`, on first use."""
    from importlib import import_module

    if name == "listen":  # the package itself, which can be called (see there)
        return import_module("apt_plugin.listen")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
