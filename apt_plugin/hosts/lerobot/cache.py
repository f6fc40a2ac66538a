"""Training from a feature cache in lerobot: which run does, what it leaves out, and the check of the stamp.

lerobot's script makes the data, then the policy, then the processors. The cache is opened with the data, tells the
policy to leave its VLM out, and is compared with what runs once the processors are there, before the first step.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from apt_plugin.backends.torch_absent import Vlm
from apt_plugin.cache import Cache, check_stamp, request
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.cache_data import CachedDataset
from apt_plugin.hosts.lerobot.cache_stamp import stamp_of

logger = logging.getLogger(__name__)


@dataclass
class Active:
    """The cache that this process trains from."""

    config: Any  # the policy config of the training run: the very object
    cache: Cache
    train: Any  # the host's data set behind ours
    settings: Any  # the host's whole training config
    policy: Any = None

    @property
    def kind(self) -> str:
        return self.cache.stamp["kind"]


_active: Active | None = None
building: Any = None  # the process builds a cache instead of training from one (cache_build.Building)


def active_for(config: Any) -> Active | None:
    """The open cache, for the policy that this process trains; None for any other (proofs, evaluation, serving)."""
    return _active if _active is not None and _active.config is config else None


def wrap(cfg: Any, train: Any, held_out: Any) -> tuple[Any, Any]:
    """The data of a training run, from its cache where the recipe names one.

    Raises:
        AptError: no cache there, or one that lacks frames; rollouts during training, or streamed data.
    """
    global _active
    _active = None
    if building is not None:
        return building.wrap(cfg, train, held_out)
    recipe, stage = getattr(cfg.policy, "recipe", None), getattr(cfg.policy, "stage", 0)
    if recipe is None or not request.wanted(recipe, stage):
        if recipe is not None:
            request.say_unused(recipe, stage)
        return train, held_out
    check_run(cfg)
    folder = request.folder_of(recipe, stage)
    cache = Cache(folder)
    words = request.keyed_by_words(stage, cache.stamp["kind"])
    logger.info("APT: %d frames' features from %s; no image is decoded.", len(cache), folder)
    _active = Active(cfg.policy, cache, train, cfg)
    return CachedDataset(train, cache, words), None if held_out is None else CachedDataset(held_out, cache, words)


def check_run(cfg: Any) -> None:
    """Raises AptError: what a cache cannot serve."""
    if cfg.dataset.streaming:
        raise AptError("A cache finds frames by their number, which streamed data have not: drop --dataset.streaming.")
    if cfg.env is not None and cfg.env_eval_freq > 0:
        raise AptError(
            "Rollouts during training need the VLM, which a run from a cache does not load: write --env_eval_freq=0 "
            "and roll out the checkpoints, or train without --apt.cache."
        )


def leave_out(policy: Any, cast: torch.dtype | None = None) -> Vlm | None:
    """What of a freshly built policy is an outline only; None without a cache.

    Args:
        cast: see `Vlm.of`.
    """
    active = active_for(policy.config)
    if active is None:
        return None
    active.policy = policy
    return Vlm.of(policy, cast)


def close() -> None:
    global _active
    _active = None


def checked(host: Any) -> Any:
    """lerobot's make_pre_post_processors; behind it everything that the stamp speaks of exists."""

    def make_pre_post_processors(*args: Any, **kwargs: Any) -> Any:
        made = host(*args, **kwargs)
        # The model is built, the data order has a seed of its own. From here on dropout draws the same numbers whether
        # or not a VLM was initialised before; a resumed run restores its state after this.
        torch.manual_seed(torch.initial_seed())
        if _active is not None and _active.policy is not None:
            want = stamp_of(_active.settings, _active.policy, _active.train, made[0], _active.kind)
            if _active.config.recipe.cache_kind not in ("auto", want["kind"]):
                want["kind"] = _active.config.recipe.cache_kind
            check_stamp(_active.cache.folder, want)
        return made

    return make_pre_post_processors
