"""`--recipe warmup`: the host's own training with the VLM frozen for the first share of the steps, then trained.

An action expert that knows nothing yet should not train the VLM. Policy, optimizer, schedule and checkpoints are the
host's; the optimizer knows the VLM from the start, and skips what has no gradient. Which half a step belongs to is told
by its number, so a resumed run goes on where it stopped.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from apt_plugin.backends import torch_ranks
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import shards
from apt_plugin.hosts.lerobot.groups import in_vlm
from apt_plugin.run.replace import Replacements

logger = logging.getLogger(__name__)
_INSTALLED = Replacements()
RESUMES = ("resume_before_prepare", "load_training_state")  # in main's script, in 0.6.1's


class Warmup:
    """One training process.

    Args:
        share: of the steps, in (0, 1).
    """

    def __init__(self, share: float):
        self.share = share
        self.step = self.frozen = self.total = 0
        self.vlm: list[Any] = []  # what of it the command trains

    def begins(self, host: Any) -> Any:
        """Around `make_train_eval_datasets`, which sees the whole config first."""

        @functools.wraps(host)
        def make_train_eval_datasets(cfg: Any) -> Any:
            shards.check(cfg)
            torch_ranks.keep_group()
            self.total = cfg.steps
            self.frozen = max(1, round(self.share * cfg.steps))
            if self.frozen >= self.total:
                raise AptError(f"--steps is {self.total}: too few for a warm-up and a rest. Write 2 or more.")
            return host(cfg)

        return make_train_eval_datasets

    def built(self, host: Any) -> Any:
        """Around `make_optimizer_and_scheduler`.

        Raises (when called):
            AptError: the command trains nothing of the VLM.
        """

        @functools.wraps(host)
        def make_optimizer_and_scheduler(cfg: Any, policy: Any) -> Any:
            self.vlm = [p for name, p in policy.named_parameters() if in_vlm(name) and p.requires_grad]
            if not self.vlm:
                raise AptError(
                    "--recipe warmup trains the VLM behind the warm-up, and your command trains nothing of it. Write "
                    "--policy.train_expert_only=false (GR00T: --policy.tune_llm=true), or drop --recipe warmup."
                )
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
            trains = self.step >= self.frozen
            if self.vlm[0].requires_grad != trains:
                for parameter in self.vlm:
                    parameter.requires_grad_(trains)
                does = "trains from here on" if trains else f"is frozen for the first {self.frozen}"
                logger.info("APT: step %d of %d: the VLM %s.", self.step, self.total, does)
            found = host(*args, **kwargs)
            self.step += 1
            return found

        return update_policy


def install(share: float) -> None:
    """For the life of this process."""
    from lerobot.scripts import lerobot_train

    warmup = Warmup(share)
    wraps = {
        "make_train_eval_datasets": warmup.begins,
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
