"""Read by every Python that has this folder on its path: less to do than a documented command says, on a CPU.

The commands stay as they are written. What is smaller is put in when its module is imported, in whichever process.
"""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHRINK = 1000  # of the steps of a GR00T run


def fewer(cls: type, **limits: int) -> None:
    """A command of ours with less to do than it says."""
    call = cls.__call__
    cls.__call__ = lambda self: call(  # type: ignore[method-assign]
        dataclasses.replace(self, **{name: min(getattr(self, name), most) for name, most in limits.items()})
    )


def tabletop(module: Any) -> None:
    fewer(module.Data, labelled=4, unlabelled=3)
    fewer(module.Trial, episodes=1)


def arguments(module: Any) -> None:
    ready = module.TrainingArguments.__post_init__

    def shorter(self: Any) -> None:
        self.max_steps, self.save_steps = max(1, self.max_steps // SHRINK), max(1, int(self.save_steps) // SHRINK)
        self.per_device_train_batch_size, self.dataloader_num_workers = 2, 0
        self.bf16, self.tf32 = False, None  # the host's own run asks for a GPU
        ready(self)

    module.TrainingArguments.__post_init__ = shorter


def policy(module: Any) -> None:
    make = module.Gr00tPolicy.__init__
    module.Gr00tPolicy.__init__ = lambda self, *a, device, **more: make(self, *a, device="cpu", **more)


CHANGES: dict[str, Callable[[Any], None]] = {
    "apt_plugin.tabletop_command": tabletop,
    "transformers.training_args": arguments,
    "gr00t.policy.gr00t_policy": policy,
}


if __name__ == "sitecustomize":
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "changes.py"))["install"](CHANGES)
