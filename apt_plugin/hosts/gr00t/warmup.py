"""A warm-up in Isaac GR00T's trainer, by `--recipe warmup` or in Stage 2; see `apt_plugin.run.warmup`."""

from __future__ import annotations

import functools
from typing import Any

import torch
from gr00t.experiment import experiment
from gr00t.experiment.trainer import Gr00tTrainer
from transformers import TrainerCallback

from apt_plugin.backends import torch_ranks
from apt_plugin.backends.torch_groot_groups import in_vlm
from apt_plugin.backends.torch_warmup import Warmup
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.gr00t import distributed
from apt_plugin.recipe import Recipe
from apt_plugin.run.replace import Replacements
from apt_plugin.vlm import mode_of

HOW = "--tune-llm or --tune-visual (in a config file: model.tune_llm)"
_REPLACED = Replacements()


class Halves(TrainerCallback):
    """Which half a step belongs to, by the trainer's own number of it."""

    def __init__(self, warmup: Warmup):
        self.warmup = warmup

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.warmup.before(state.global_step)


def check_processes(flag: str, instead: str) -> None:
    """
    Raises:
        AptError: several.
    """
    if torch_ranks.started() > 1:
        raise AptError(
            f"{flag} with several processes: DDP and ZeRO, as this host sets them up, settle before the first step "
            f"what trains. Start one process, or {instead}."
        )


def of_stage(trainer: Any, recipe: Recipe, stage: int) -> None:
    """Adds the warm-up of a stage of the recipe to its trainer; nothing where that has none.

    Raises:
        AptError: several processes.
    """
    warmup = Warmup(recipe.frozen_share, "--max-steps", HOW)
    named = trainer.model.named_parameters()
    if warmup.of_stage(recipe, mode_of(recipe, stage), trainer.args.max_steps, named, in_vlm):
        check_processes(f"--apt.frozen_share {recipe.frozen_share:g}", "write --apt.frozen_share 0")
        trainer.add_callback(Halves(warmup))


def install(share: float) -> None:
    """For the life of this process.

    Raises:
        AptError: several processes.
    """
    HOSTS["gr00t"].require_training()
    check_processes("--recipe warmup", "train twice: without --tune-llm and --tune-visual first, then with them")

    class WarmTrainer(Gr00tTrainer):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            warmup = Warmup(share, "--max-steps", HOW)
            warmup.begins(self.args.max_steps)
            warmup.finds(self.model.named_parameters(), in_vlm)
            self.add_callback(Halves(warmup))

    _REPLACED.set(experiment, "Gr00tTrainer", WarmTrainer)
    _REPLACED.wrap(experiment, "run", _on_this_machine)


def _on_this_machine(host: Any) -> Any:
    @functools.wraps(host)
    def run(config: Any) -> Any:
        if not torch.cuda.is_available():
            distributed.without_gpu(config.training)
        return host(config)

    return run


def uninstall() -> None:
    """Put the host's names back."""
    _REPLACED.restore()
