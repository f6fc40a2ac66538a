"""Where a demonstration ends (`apt_plugin.prior`), read by the host's own reader: the state of two moments per frame.

It keeps to the episode by itself, so that a goal beyond the end is the last state that was recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lerobot.utils.constants import OBS_STATE

from apt_plugin.errors import AptError
from apt_plugin.run.replace import replaced
from apt_plugin.stages import PRIOR

logger = logging.getLogger(__name__)
FAR = 1_000_000  # frames ahead: the end of any episode


def wanted(config: Any) -> bool:
    """Whether a policy config is of a Stage 1 that is told goals."""
    recipe = getattr(config, "recipe", None)
    return recipe is not None and recipe.prior.goal != "none" and config.stage == PRIOR


@contextmanager
def reading(cfg: Any) -> Iterator[None]:
    """Data sets that are made inside hold `observation.state` [2, D]: the frame's own and its goal.

    Raises:
        AptError: streamed data; a host that no longer asks where moments are decided.
    """
    if not wanted(cfg.policy):
        yield
        return
    if cfg.dataset.streaming:
        raise AptError("prior.goal looks ahead in an episode, which streamed data do not allow: drop one of the two.")
    from lerobot.datasets import factory

    host, asked = factory.resolve_delta_timestamps, []

    def resolve_delta_timestamps(config: Any, meta: Any, *args: Any, **kwargs: Any) -> dict[str, list]:
        moments = host(config, meta, *args, **kwargs) or {}
        ahead = config.chunk_size if config.recipe.prior.goal_at == "chunk" else FAR
        names = {policy: data for data, policy in (cfg.rename_map or {}).items()}
        asked.append(name := names.get(OBS_STATE, OBS_STATE))
        return {**moments, name: [0.0, ahead / meta.fps]}

    with replaced(factory, "resolve_delta_timestamps", resolve_delta_timestamps):
        yield
    if not asked:
        raise AptError("prior.goal: this lerobot decides elsewhere which moments are read, so no goal would be told.")
    prior = cfg.policy.recipe.prior
    logger.info(
        "APT: %.0f %% of Stage 1's samples are told the state at the end of their %s.",
        100 * prior.goal_share, prior.goal_at,
    )  # fmt: skip
