"""One process of tests/hosts/lerobot/test_groot_distributed.py: two optimiser steps on its share of four frames.

root: working directory; base: its checkpoint; prior: Stage-1 checkpoint or "-"; out: file to write.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.hosts.lerobot import tiny_groot as tiny


def main(root: str, base: str, prior: str, out: str) -> None:
    os.chdir(root)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # Stage 2's new layers start from it, as under the hosts' own seeds
    policy = tiny.stage1(base) if prior == "-" else tiny.stage2(prior, base)
    policy.train()
    # No search for unused parameters, as Isaac GR00T's trainer has it: a parameter without gradient would stop it.
    model = DistributedDataParallel(policy, find_unused_parameters=False)
    optimizer = torch.optim.SGD(policy.get_optim_params(), lr=1e-3)
    batch = tiny.batch(policy, ["push it", "pull", "lift the cup", "go"])
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    patches = batch["pixel_values"].shape[0] // 4
    for step in range(2):
        mine = {k: v[share] if torch.is_tensor(v) and v.shape[0] == 4 else v for k, v in batch.items()}
        mine["pixel_values"] = batch["pixel_values"][share.start * patches : share.stop * patches]
        mine["image_grid_thw"] = batch["image_grid_thw"][share.start * 2 : share.stop * 2]
        mine["index"] = batch["index"][share]
        optimizer.zero_grad()
        model(mine)[0].backward()
        optimizer.step()
        policy.update()
        assert policy.apt_run.step == step + 1
    if rank == 0:
        from safetensors.torch import save_file

        save_file({n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}, out)
    dist.destroy_process_group()
