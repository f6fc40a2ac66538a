"""A user's modality file that feeds a stage one batch again and again: a run does not depend on its place in the data.

Behind a resume the host draws its frames anew ("will make the experiment non-reproducible", it says).

Named by --modality-config-path in test_blows.py. The first run of a stage writes its batch into APT_TEST_BATCHES.
"""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from apt_plugin.hosts.gr00t import training

FOLDER = Path(os.environ["APT_TEST_BATCHES"])
_own = training.AptTrainer.get_train_dataloader


def loader(trainer):
    path = FOLDER / f"stage{trainer.model.apt_stage}.safetensors"
    if not path.exists():
        batch = next(iter(_own(trainer)))
        save_file({name: value.contiguous() for name, value in batch["inputs"].items()}, path)
    return DataLoader([{"inputs": load_file(path)}] * trainer.args.max_steps, batch_size=None)


training.AptTrainer.get_train_dataloader = loader
