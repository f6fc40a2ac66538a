"""Learning rates by group, as an optimiser config of the host's kind.

Scaling Adam's finished update is a learning rate of its own; weight decay scales with it. Clipping stays the host's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax
from openpi.training import optimizer

from apt_plugin.freeze import added
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD


def path_of(keys: Any) -> str:
    """a/b/c of a JAX key path; nnx's trailing `value` left out."""
    parts = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys]
    return "/".join(part for part in parts if part != "value")


def part_of(path: str) -> str:
    """vlm | gate | fusion | inherited, by parameter path."""
    if added(path):
        return "gate" if path.endswith("gate/w") else "fusion"
    return "vlm" if path.startswith("PaliGemma/") and "_1" not in path.partition("llm")[2] else "inherited"


@dataclasses.dataclass(frozen=True)
class AptOptimizer(optimizer.OptimizerConfig):
    """The run's own optimiser with the recipe's rates; gates take no weight decay.

    Decay would pull gates to their start, which for half-open ones is not closed.
    """

    inner: optimizer.OptimizerConfig
    stage: int
    recipe: Recipe

    def scales(self) -> dict[str, float]:
        recipe, two = self.recipe, self.stage == LIKELIHOOD
        slow = two and recipe.inherited == "slow"
        return {
            "vlm": recipe.vlm_lr_scale,
            "inherited": recipe.inherited_lr_scale if slow else 1.0,
            "fusion": recipe.fusion_lr_scale,
            "gate": recipe.fusion_lr_scale,
        }

    def create(self, lr: optax.ScalarOrSchedule, weight_decay_mask: Any = None) -> optax.GradientTransformation:
        scales = self.scales()

        def decays(params: Any) -> Any:
            return jax.tree_util.tree_map_with_path(lambda keys, _: part_of(path_of(keys)) != "gate", params)

        def scale(updates: Any, params: Any = None) -> Any:
            return jax.tree_util.tree_map_with_path(lambda keys, u: u * scales[part_of(path_of(keys))], updates)

        # SGD takes no mask and has no decay.
        mask = decays if hasattr(self.inner, "weight_decay") and weight_decay_mask is None else weight_decay_mask
        return optax.chain(self.inner.create(lr, weight_decay_mask=mask), optax.stateless(scale))
