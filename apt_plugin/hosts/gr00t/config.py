"""The config of an APT model: the host's, the stage and the recipe, under a model type of its own.

Saved under the host's own type, a checkpoint would load without the plugin with a mere warning, and run ungated.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gr00t.configs.model.gr00t_n1d7 import Gr00tN1d7Config

from apt_plugin.recipe import Recipe, flatten, from_flat
from apt_plugin.stages import PRIOR


class Gr00tN1d7AptConfig(Gr00tN1d7Config):
    """No dataclass of its own: the decorator would replace the `__init__` that reads a config file.

    Not registered with the host's `register_model_config`: a second entry there would change the host's own flags.
    """

    model_type = "Gr00tN1d7Apt"

    def __init__(self, apt_stage: int = PRIOR, apt_recipe: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.model_type = type(self).model_type
        self.apt_stage, self.apt_recipe = apt_stage, apt_recipe or asdict(Recipe())

    @property
    def recipe(self) -> Recipe:
        return from_flat(flatten(self.apt_recipe))

    @classmethod
    def of(cls, host: Gr00tN1d7Config, stage: int, recipe: Recipe) -> Gr00tN1d7AptConfig:
        """The same model under the recipe."""
        values = {k: v for k, v in vars(host).items() if not k.startswith(("_", "apt_")) and k != "model_type"}
        return cls(apt_stage=stage, apt_recipe=asdict(recipe), **values)
