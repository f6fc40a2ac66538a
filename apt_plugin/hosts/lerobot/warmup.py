"""`--recipe warmup` in lerobot's training script, see `apt_plugin.run.warmup`."""

from __future__ import annotations

import functools
from typing import Any

from apt_plugin.backends import torch_ranks, torch_warmup
from apt_plugin.hosts.lerobot import shards
from apt_plugin.hosts.lerobot.groups import in_vlm
from apt_plugin.run.replace import Replacements

HOW = "--policy.train_expert_only=false (GR00T: --policy.tune_llm=true)"
_INSTALLED = Replacements()
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


def install(share: float) -> None:
    """For the life of this process."""
    from lerobot.scripts import lerobot_train

    warmup = Warmup(share)
    wraps = {
        "make_train_eval_datasets": warmup.begun,
        "make_optimizer_and_scheduler": warmup.built,
        next(name for name in RESUMES if hasattr(lerobot_train, name)): warmup.resumed,
        "update_policy": warmup.updates,
    }
    for name, wrap in wraps.items():
        _INSTALLED.wrap(lerobot_train, name, wrap)


def uninstall() -> None:
    """Put the host's functions back."""
    _INSTALLED.restore()
    torch_ranks.let_go()
