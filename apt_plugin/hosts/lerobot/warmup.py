"""A warm-up in lerobot's training script, by `--recipe warmup` or in Stage 2; see `apt_plugin.run.warmup`."""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

from apt_plugin.backends import torch_ranks, torch_warmup
from apt_plugin.hosts.lerobot import shards
from apt_plugin.hosts.lerobot.groups import in_vlm
from apt_plugin.run.replace import Replacements

logger = logging.getLogger(__name__)

HOW = "--policy.train_expert_only=false (GR00T: --policy.tune_llm=true)"
_INSTALLED = Replacements()
SCRIPTS = ("lerobot.scripts.lerobot_train", "__main__")
RESUMES = ("resume_before_prepare", "load_training_state")  # in main's script, in 0.6.1's


class Warmup(torch_warmup.Warmup):
    """One training process."""

    def __init__(self, share: float):
        super().__init__(share, "--steps", HOW)
        self.step = 0

    def begun(self, host: Any) -> Any:
        """Around `make_train_eval_datasets`, which sees the whole config first."""

        @functools.wraps(host)
        def make_train_eval_datasets(cfg: Any) -> Any:
            shards.check(cfg)
            torch_ranks.keep_group()
            self.begins(cfg.steps)
            return host(cfg)

        return make_train_eval_datasets

    def built(self, host: Any) -> Any:
        """Around `make_optimizer_and_scheduler`."""

        @functools.wraps(host)
        def make_optimizer_and_scheduler(cfg: Any, policy: Any) -> Any:
            self.finds(policy.named_parameters(), in_vlm)
            return host(cfg, policy)

        return make_optimizer_and_scheduler

    def resumed(self, host: Any) -> Any:
        """Around what tells the step of a checkpoint: the first of what it returns, or (main) all of it."""

        @functools.wraps(host)
        def resume(*args: Any, **kwargs: Any) -> Any:
            found = host(*args, **kwargs)
            self.step = found if isinstance(found, int) else found[0]
            return found

        return resume

    def updates(self, host: Any) -> Any:
        """Around `update_policy`, one step."""

        @functools.wraps(host)
        def update_policy(*args: Any, **kwargs: Any) -> Any:
            self.before(self.step)
            found = host(*args, **kwargs)
            self.step += 1
            return found

        return update_policy


class InStage(Warmup):
    """Of a stage, as its recipe says; nothing where that has none."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def built(self, host: Any) -> Any:
        """Around `make_optimizer_and_scheduler`."""

        @functools.wraps(host)
        def make_optimizer_and_scheduler(cfg: Any, policy: Any) -> Any:
            if hasattr(cfg.policy, "recipe"):
                self.of_stage(cfg.policy.recipe, cfg.policy.vlm_mode, cfg.steps, policy.named_parameters(), in_vlm)
            return host(cfg, policy)

        return make_optimizer_and_scheduler


def steps_of(script: Any, warmup: Warmup) -> dict[str, Any]:
    """Names in the host's script -> what wraps them, so that a warm-up knows what trains and which step it is."""
    return {
        "make_optimizer_and_scheduler": warmup.built,
        next(name for name in RESUMES if hasattr(script, name)): warmup.resumed,
        "update_policy": warmup.updates,
    }


def install(share: float) -> None:
    """For the life of this process."""
    from lerobot.scripts import lerobot_train

    warmup = Warmup(share)
    for name, wrap in {"make_train_eval_datasets": warmup.begun, **steps_of(lerobot_train, warmup)}.items():
        _INSTALLED.wrap(lerobot_train, name, wrap)


def join(config: Any) -> None:
    """In the host's own command without a launcher, for the life of this process: the warm-up of the stage's recipe.

    Args:
        config: the policy's.
    """
    if _INSTALLED or config.vlm_mode == "frozen" or not config.recipe.frozen_share:
        return
    script = next((sys.modules[name] for name in SCRIPTS if hasattr(sys.modules.get(name), "update_policy")), None)
    if script is None:
        logger.warning(
            "APT: frozen_share is %g, and this is not lerobot's training script: a loop of your own trains the VLM "
            "from its first step, or keeps it frozen itself.", config.recipe.frozen_share,
        )  # fmt: skip
        return
    for name, wrap in steps_of(script, InStage()).items():
        _INSTALLED.wrap(script, name, wrap)


def uninstall() -> None:
    """Put the host's functions back."""
    _INSTALLED.restore()
    torch_ranks.let_go()
