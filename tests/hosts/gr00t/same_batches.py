"""A user's modality file that fixes the order of the data: one process writes its batches, more take slices of them.

How frames are dealt to processes is the host's own affair (whole shards, by rank), so that two processes see other
batches than one. Named by --modality-config-path in test_distributed.py; the folder comes from APT_TEST_BATCHES.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from apt_plugin.hosts.gr00t import training

FOLDER, RANK, WORLD = (Path(os.environ["APT_TEST_BATCHES"]), int(os.environ.get("RANK", "0")),
                       int(os.environ.get("WORLD_SIZE", "1")))  # fmt: skip
_own = training.AptTrainer.get_train_dataloader


def loader(trainer):
    folder = FOLDER / f"stage{trainer.model.apt_stage}"
    if WORLD == 1:
        folder.mkdir(parents=True)
        for step, batch in enumerate(itertools.islice(_own(trainer), trainer.args.max_steps)):
            save_file({k: v.contiguous() for k, v in batch["inputs"].items()}, folder / f"{step}.safetensors")
    batches = [load_file(folder / f"{step}.safetensors") for step in range(trainer.args.max_steps)]

    def share(value):  # every sample has as many patches and images as the next
        return value[value.shape[0] * RANK // WORLD : value.shape[0] * (RANK + 1) // WORLD]

    return DataLoader([{"inputs": {k: share(v) for k, v in batch.items()}} for batch in batches], batch_size=None)


training.AptTrainer.get_train_dataloader = loader
