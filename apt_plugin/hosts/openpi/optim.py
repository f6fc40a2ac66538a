"""Learning rates by group, as an optimiser config of the host's kind.

Scaling Adam's finished update is a learning rate of its own; weight decay scales with it. Clipping stays the host's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax
from openpi.training import optimizer

from apt_plugin import parts
from apt_plugin.recipe import Recipe


def path_of(keys: Any) -> str:
    """a/b/c of a JAX key path; nnx's trailing `value` left out."""
    parts = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys]
    return "/".join(part for part in parts if part != "value")


def in_vlm(path: str) -> bool:
    """Whether a parameter is the VLM's, by its path in openpi's JAX tree: the expert is the second of each pair."""
    return path.startswith("PaliGemma/") and "_1" not in path.partition("llm")[2]


def part_of(path: str) -> str:
    """See `parts.part_of`."""
    return parts.part_of(path, in_vlm)


@dataclasses.dataclass(frozen=True)
class AptOptimizer(optimizer.OptimizerConfig):
    """The run's own optimiser with the recipe's rates; gates take no weight decay."""

    inner: optimizer.OptimizerConfig
    stage: int
    recipe: Recipe

    def scales(self) -> dict[str, float]:
        return parts.rate_scales(self.recipe, self.stage)

    def create(self, lr: optax.ScalarOrSchedule, weight_decay_mask: Any = None) -> optax.GradientTransformation:
        scales = self.scales()

        def decays(params: Any) -> Any:
            return jax.tree_util.tree_map_with_path(lambda keys, _: parts.decays(part_of(path_of(keys))), params)

        def scale(updates: Any, params: Any = None) -> Any:
            return jax.tree_util.tree_map_with_path(lambda keys, u: u * scales[part_of(path_of(keys))], updates)

        # SGD takes no mask and has no decay.
        mask = decays if hasattr(self.inner, "weight_decay") and weight_decay_mask is None else weight_decay_mask
        return optax.chain(self.inner.create(lr, weight_decay_mask=mask), optax.stateless(scale))
