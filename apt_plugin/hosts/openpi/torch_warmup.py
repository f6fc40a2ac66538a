"""A warm-up in openpi's PyTorch trainer, by `--recipe warmup` or in Stage 2; see `apt_plugin.run.warmup`."""

from __future__ import annotations

import functools
from typing import Any

from openpi.models_pytorch import pi0_pytorch

from apt_plugin.backends import torch_ranks, torch_warmup
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.torch_model import in_vlm
from apt_plugin.hosts.openpi.warmup import HOW
from apt_plugin.run.replace import Replacements

STATIC = 8  # processes from which on the host tells DDP that what trains will never change


class Warmup(torch_warmup.Warmup):
    """One training process."""

    def __init__(self, share: float):
        super().__init__(share, "--num-train-steps", HOW)
        self.step = 0

    def built(self, host: Any) -> Any:
        """Around the model's class, which the host looks up by name."""

        def make(config: Any) -> Any:
            torch_ranks.keep_group()
            model = host(config)
            self.finds(model.named_parameters(), in_vlm)
            model.register_forward_pre_hook(self._forward)
            return model

        return make

    def _forward(self, model: Any, _inputs: Any) -> None:
        if model.training:  # one pass a step
            self.before(self.step)
            self.step += 1

    def resumed(self, host: Any) -> Any:
        """Around `load_checkpoint`, which tells the step."""

        @functools.wraps(host)
        def load_checkpoint(*args: Any, **more: Any) -> Any:
            self.step = host(*args, **more)
            return self.step

        return load_checkpoint


def check_processes(flag: str, instead: str) -> None:
    """
    Raises:
        AptError: more than may begin to train a part on the way.
    """
    if (count := torch_ranks.started()) >= STATIC:
        raise AptError(
            f"{flag} with {count} processes: from {STATIC} on, openpi's PyTorch trainer settles before the first step "
            f"what trains. Start fewer, or {instead}."
        )


def install(script: Any, config: Any, share: float, replacements: Replacements) -> None:
    """Rebind the model's name and the loading of a checkpoint.

    Raises:
        AptError: too few steps; more processes than may begin to train a part on the way.
    """
    check_processes("--recipe warmup", "train in JAX (scripts/train.py)")
    warmup = Warmup(share)
    warmup.begins(config.num_train_steps)
    replacements.wrap(pi0_pytorch, "PI0Pytorch", warmup.built)
    replacements.wrap(script, "load_checkpoint", warmup.resumed)
