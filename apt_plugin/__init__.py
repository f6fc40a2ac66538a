"""Action expert PreTraining (APT) as a recipe inside openpi, Isaac GR00T and lerobot.

Importing this package imports no deep-learning framework and changes nothing in a host:
a host is touched only when a run names the recipe (`--recipe apt`).
"""

from apt_plugin.errors import AptError
from apt_plugin.recipe import Fusion, Recipe

__version__ = "0.1.0"

__all__ = ["AptError", "Fusion", "Recipe", "__version__"]
