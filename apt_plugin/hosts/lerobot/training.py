"""What a training process under the launcher adds to lerobot's script: data for the two stages, whole checkpoints.

Some names in `lerobot.scripts.lerobot_train` are rebound for the life of that process, each logged.
"""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lerobot.common import train_utils
from lerobot.utils.constants import LAST_CHECKPOINT_LINK

from apt_plugin import files
from apt_plugin.backends import torch_ranks
from apt_plugin.hosts.lerobot import cache, cards, checkpoints, goals, mixing, order, renaming, shards, warmup
from apt_plugin.run.replace import Replacements
from apt_plugin.stages import LIKELIHOOD

logger = logging.getLogger(__name__)

_INSTALLED = Replacements()


def installed() -> bool:
    """Whether this process runs under the launcher (mixed data needs it)."""
    return bool(_INSTALLED)


def install(around: Mapping[str, Callable[[Any], Any]] | None = None) -> None:
    """Rebind, once per process.

    Args:
        around: name in the host's script -> what wraps it outermost, for a process that does something else there.
    """
    from lerobot.scripts import lerobot_train

    if _INSTALLED:
        return
    wraps = {
        "make_train_eval_datasets": _datasets,
        "save_checkpoint": _whole_checkpoint,
        "update_last_checkpoint": _whole_link,
        "make_policy": renaming.policy,
        "make_pre_post_processors": lambda host: cache.checked(renaming.processors(host)),
        "EpisodeAwareSampler": order.exact_sampler,
        **warmup.steps_of(lerobot_train, warmup.InStage()),
    }
    for name, wrap in wraps.items():
        _INSTALLED.wrap(lerobot_train, name, wrap)
    if cards.by_config():
        _INSTALLED.wrap(train_utils, cards.FUNCTION, cards.with_recipe)
    for name, wrap in (around or {}).items():
        _INSTALLED.wrap(lerobot_train, name, wrap, over=name in wraps)


def uninstall() -> None:
    """Put the host's functions back."""
    cache.close()
    _INSTALLED.restore()
    torch_ranks.let_go()


def _datasets(host: Any) -> Any:
    def make_train_eval_datasets(cfg: Any) -> tuple[Any, Any]:
        shards.check(cfg)
        torch_ranks.keep_group()
        with goals.reading(cfg):
            train, held_out = host(cfg)
        mixing.fill_tasks(train)
        mixing.fill_tasks(held_out)
        mix = getattr(getattr(cfg.policy, "recipe", None), "mix", None)
        if mix is not None and mix.share > 0 and cfg.policy.stage == LIKELIHOOD:
            train = mixing.MixedDataset(train, mixing.load_like(train, mix, cfg), mix.share)
        return cache.wrap(cfg, train, held_out)

    return make_train_eval_datasets


def _whole_checkpoint(host: Any) -> Any:
    """The host writes a checkpoint in place; a kill in between leaves half of one under its final name.

    lerobot 0.6.1 calls this on the first rank alone; main calls it on every rank and hands it the accelerator.
    """
    together = "accelerator" in inspect.signature(host).parameters

    def meet() -> None:
        if together:
            torch_ranks.meet()

    def save_checkpoint(checkpoint_dir: Path, *args: Any, **kwargs: Any) -> None:
        checkpoint_dir = Path(checkpoint_dir)
        temporary = checkpoint_dir.with_name(f".{checkpoint_dir.name}.tmp")
        if torch_ranks.writes():
            shutil.rmtree(temporary, ignore_errors=True)
        meet()
        host(temporary, *args, **kwargs)
        meet()
        if torch_ranks.writes():
            settle(temporary, checkpoint_dir)
        meet()

    def settle(temporary: Path, checkpoint_dir: Path) -> None:
        checkpoints.seal_processors(temporary / "pretrained_model")
        for path in temporary.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(checkpoint_dir, ignore_errors=True)
        temporary.rename(checkpoint_dir)
        files.fsync_folder(checkpoint_dir.parent)

    return save_checkpoint


def _whole_link(_host: Any) -> Any:
    """The host unlinks `last` and then makes it anew; a kill in between leaves a run without one."""

    def update_last_checkpoint(checkpoint_dir: Path) -> Path:
        last = Path(checkpoint_dir).parent / LAST_CHECKPOINT_LINK
        temporary = last.with_name(f".{last.name}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(checkpoint_dir).name)
        os.replace(temporary, last)
        return last

    return update_last_checkpoint


def allow_in_policy_server() -> None:
    """lerobot's async server compares exact type names; add ours to its list in this process."""
    from lerobot.async_inference import constants

    from apt_plugin.hosts.lerobot.families import POLICIES

    constants.SUPPORTED_POLICIES.extend(n for n in POLICIES.values() if n not in constants.SUPPORTED_POLICIES)
    logger.info("APT: added %s to lerobot.async_inference.constants.SUPPORTED_POLICIES", list(POLICIES.values()))
