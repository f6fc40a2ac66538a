"""What a Stage-1 step costs beside lerobot's own training, all rows in one run: python examples/lerobot_cost.py

π0.5 at a quarter of its widths, 6 of 18 layers, 2 x 144 image tokens, 100 text tokens (20 of them the instruction),
25 actions, batch 1, float32, one thread; forward and backward, no optimiser step. CPU time, the best of the rounds.
Memory is the peak of the process above where the step began, gradients included. Trust ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from apt_plugin.hosts.lerobot import register
from apt_plugin.hosts.lerobot.flow import PromptBatch
from apt_plugin.hosts.lerobot.sizes import sized
from apt_plugin.recipe import Recipe

SIZES = {"vlm_width": 512, "vlm_mlp": 4096, "expert_width": 256, "expert_mlp": 1024, "depth": 6, "head_dim": 64}
SIZES |= {"kv_heads": 1, "vocab": 4096, "patch": 14}
SIZES |= {"vision_width": 288, "vision_mlp": 1076, "vision_depth": 7, "vision_heads": 4}
TEXT, SPOKEN, CHUNK, SIDE = 100, 20, 25, 168  # 168 / 14 = 12 x 12 image tokens


def fields() -> dict:
    from lerobot.configs import FeatureType, PolicyFeature

    cameras = {f"observation.images.{n}": PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)) for n in "ab"}
    return {
        "input_features": {**cameras, "observation.state": PolicyFeature(FeatureType.STATE, (8,))},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (7,))},
        "image_resolution": (SIDE, SIDE), "chunk_size": CHUNK, "n_action_steps": CHUNK, "device": "cpu",
        "push_to_hub": False, "tokenizer_max_length": TEXT,
    }  # fmt: skip


def inputs() -> tuple:
    images = [torch.rand(1, 3, SIDE, SIDE) for _ in range(2)]
    masks = [torch.ones(1, dtype=torch.bool)] * 2
    place = torch.arange(TEXT)[None]
    prompt = PromptBatch(
        torch.randint(0, 4096, (1, TEXT)), torch.ones(1, TEXT, dtype=torch.bool), place >= TEXT - SPOKEN, place
    )
    return images, masks, prompt, torch.rand(1, CHUNK, 32)


def stock(expert_only: bool) -> Callable[[], None]:
    from lerobot.policies.pi05.configuration_pi05 import PI05Config
    from lerobot.policies.pi05.modeling_pi05 import PI05Policy

    with sized(SIZES):
        policy = PI05Policy(PI05Config(**fields(), train_expert_only=expert_only)).train()
    images, masks, prompt, actions = inputs()

    def step() -> None:
        noise, at = torch.randn_like(actions), torch.rand(1)
        policy.model.forward(images, masks, prompt.tokens, prompt.valid, actions, noise, at).mean().backward()

    return zeroed(policy, step)


def ours(draws: int) -> Callable[[], None]:
    from apt_plugin.hosts.lerobot.configuration_pi05_apt import PI05AptConfig
    from apt_plugin.hosts.lerobot.modeling_pi05_apt import PI05AptPolicy

    policy = PI05AptPolicy(PI05AptConfig(**fields(), sizes=SIZES, recipe=Recipe(noise_draws=draws))).train()
    images, masks, prompt, actions = inputs()

    def step() -> None:
        noise, at = torch.randn(1, draws, CHUNK, 32), torch.rand(1, draws)
        policy.model.forward(images, masks, prompt, actions, noise, at)["loss"].mean().backward()

    return zeroed(policy, step)


def zeroed(policy: torch.nn.Module, step: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        step()
        policy.zero_grad(set_to_none=True)

    return run


def resident(name: str) -> float:
    """MiB from /proc/self/status: VmRSS now, VmHWM at its peak."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def measure(step: Callable[[], None]) -> tuple[float, float]:
    """(CPU seconds, MiB of the peak above where the step began)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, begin = resident("VmRSS"), time.process_time()
    step()
    return time.process_time() - begin, resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if os.environ.get("MALLOC_MMAP_THRESHOLD_") is None:  # freed memory must leave the process, or peaks hide in it
        os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(1)
    register()
    makers = {
        "lerobot, everything trained": (lambda: stock(False), 1),
        "lerobot, train_expert_only": (lambda: stock(True), 1),
        **{f"APT Stage 1, K={k}": (lambda k=k: ours(k), k) for k in (1, 4, 8)},
    }
    rows: dict[str, dict[str, float]] = {}
    for name, (make, draws) in makers.items():
        torch.manual_seed(0)
        step = make()
        with FlopCounterMode(display=False) as counter:
            step()
        rows[name] = {"draws": draws, "gflop": counter.get_total_flops() / 1e9, "seconds": 1e9, "mib": 0.0}
        for _ in range(args.rounds):
            seconds, mib = measure(step)
            rows[name]["seconds"] = min(rows[name]["seconds"], seconds)
            rows[name]["mib"] = max(rows[name]["mib"], mib)
        del step
    full, frozen = list(rows.values())[:2]
    table = Table("step", "GFLOP", "CPU s", "of full", "of expert-only", "per draw", "peak MiB")
    for name, row in rows.items():
        row["of_full"], row["of_frozen"] = row["seconds"] / full["seconds"], row["seconds"] / frozen["seconds"]
        row["per_draw"] = row["of_frozen"] / row["draws"]
        cells = (f"{row['gflop']:.1f}", f"{row['seconds']:.2f}", f"{row['of_full']:.2f}", f"{row['of_frozen']:.2f}")
        table.add_row(name, *cells, f"{row['per_draw']:.3f}", f"{row['mib']:.0f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
