"""How soon Stage 1 has learnt what lerobot's own expert-only training ends at.

    python examples/compare/studies/learning_lerobot.py

Draws per second are not learning: K draws share a frame. On vision-action pairs of the tabletop world (no instruction
for either side, so both learn the same thing), every arm trains for the same optimizer steps from the same base with
the same rate; its checkpoints are judged by one held-out loss (the same frames, noise and times for all), and the
steps and CPU seconds are read off at which it passes the loss that lerobot's `train_expert_only` has at its end.
CPU seconds of one thread, data loading included, checkpoint writing left out; reading is interpolated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apt_plugin.hosts.lerobot import cache_build, register, training
from apt_plugin.tabletop import data, grounding
from apt_plugin.tabletop.checkpoint import host_flags
from apt_plugin.tabletop.presets import FULL

REPO = "apt/tabletop_pairs"


def in_process(argv: list[str], build: bool = False) -> tuple[float, float]:
    """Run lerobot's training here; (CPU seconds of the loop without saving, steps)."""
    from accelerate.state import AcceleratorState
    from lerobot.scripts import lerobot_train as host

    stamps: list[float] = []
    saving = [0.0]
    update, before = host.update_policy, sys.argv
    sys.argv = ["lerobot-train", *argv]

    def timed_update(*args: Any, **kwargs: Any) -> Any:
        stamps.append(time.process_time())
        return update(*args, **kwargs)

    def timed_save(save: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> None:
            began = time.process_time()
            save(*args, **kwargs)
            saving[0] += time.process_time() - began

        return run

    try:
        if build:
            began = time.process_time()
            cache_build.main("build", host.main)
            return time.process_time() - began, 0
        training.install()
        host.update_policy, host.save_checkpoint = timed_update, timed_save(host.save_checkpoint)
        host.main()
    finally:
        host.update_policy = update
        training.uninstall()
        sys.argv = before
        AcceleratorState._reset_state(reset_partial_state=True)
    steps = len(stamps) - 1
    return (stamps[-1] - stamps[0] - saving[0]) * (steps + 1) / steps, steps + 1


def judge(checkpoints: list[Path], root: Path, base: Path, episodes: list[int], tokenizer: str) -> list[float]:
    """Held-out loss of each checkpoint under the same 16 draws per frame, all read as a Stage-1 policy."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    from apt_plugin.recipe import Recipe

    stock = PreTrainedConfig.from_pretrained(base)
    chunk = {"action": [i / 10 for i in range(stock.chunk_size)]}
    meta = LeRobotDataset(REPO, root=root).meta
    chunk = {"action": [i / meta.fps for i in range(stock.chunk_size)]}
    frames = LeRobotDataset(REPO, root=root, episodes=episodes, delta_timestamps=chunk)
    items = [frames[i] for i in range(len(frames))]
    losses = []
    for checkpoint in checkpoints:
        own = PreTrainedConfig.get_choice_class("pi05_apt")
        saved = json.loads((checkpoint / "config.json").read_text())
        names = {f.name for f in own.__dataclass_fields__.values()} - {
            "type",
            "recipe",
            "stage",
            "stage1_path",
            "pretrained_path",
        }
        loaded = PreTrainedConfig.from_pretrained(checkpoint)
        settings = {n: getattr(loaded, n) for n in saved if n in names} | {"device": "cpu", "tokenizer_name": tokenizer}
        config = own(**settings | {"recipe": Recipe(noise_draws=16)})
        policy = get_policy_class("pi05_apt").from_pretrained(checkpoint, config=config).eval()
        before, _ = make_pre_post_processors(config, dataset_stats=meta.stats)
        with torch.no_grad():
            parts = [
                policy.forward(before(torch.utils.data.default_collate(items[i : i + 32])))[0].item()
                * len(items[i : i + 32])
                for i in range(0, len(items), 32)
            ]
        losses.append(sum(parts) / len(items))
    return losses


def passes(steps: np.ndarray, losses: np.ndarray, target: float) -> float | None:
    """The step at which a falling curve first reaches `target`, interpolated; None when it never does."""
    below = np.nonzero(losses <= target)[0]
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(steps[0])
    share = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("apt-learning"))
    parser.add_argument("--base", type=Path, help="a grounded base of `apt-plugin demo` (<demo>/base); made otherwise")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--marks", type=int, default=20, help="checkpoints per arm")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2, 4, 8])
    args = parser.parse_args()
    torch.set_num_threads(1)
    register()
    import apt_plugin.tabletop.host  # noqa: F401  # pi05_tiny

    root, world = args.output / "pairs", FULL.world
    if not root.exists():
        data.write_training(root, world, args.episodes, 1000, labelled=False, repo_id=REPO)
    base = args.base or args.output / "base"
    if not base.exists():
        grounding.ground(base, world, FULL.grounding)
    held = list(range(int(0.9 * args.episodes), args.episodes))
    kept = f"--dataset.episodes={list(range(held[0]))}".replace(" ", "")
    rate = [f for f in FULL.train_flags(args.steps, FULL.lr_expert, 0) if not f.startswith("--save_freq")]
    shared = [f"--dataset.repo_id={REPO}", f"--dataset.root={root}", kept, "--dataset.video_backend=pyav", *rate,
              "--env_eval_freq=0", f"--save_freq={args.steps // args.marks}"]  # fmt: skip
    ours = [f.replace("--policy.type=pi05", "--policy.type=pi05_apt") if f == "--policy.type=pi05" else f
            for f in host_flags(base, "pi05")]  # fmt: skip
    tokenizer = next(f.partition("=")[2] for f in ours if "tokenizer_name" in f)
    arms: dict[str, tuple[list[str], bool]] = {
        "lerobot expert-only": ([*host_flags(base), "--policy.discover_packages_path=apt_plugin.tabletop.host",
                                 "--policy.train_expert_only=true"], False),
    }  # fmt: skip
    for draws in args.draws:
        for cached in (False, True):
            recipe = [*ours, "--policy.stage=1", f"--policy.recipe.noise_draws={draws}"]
            recipe += [f"--policy.recipe.cache={args.output / 'cache'}"] if cached else []
            arms[f"Stage 1, K={draws}{', cache' if cached else ''}"] = (recipe, cached)
    rows: dict[str, dict[str, Any]] = {}
    for name, (flags, cached) in arms.items():
        out = args.output / name.replace(" ", "_").replace(",", "")
        if cached:
            build, _ = in_process([*flags, *shared, f"--output_dir={out}"], build=True)
            rows.setdefault("build", {"cpu_s": build})
        if not (out / "result.json").exists():
            seconds, steps = in_process([*flags, *shared, f"--output_dir={out}"])
            folders = sorted(p for p in (out / "checkpoints").iterdir() if p.name.isdigit())
            losses = judge([p / "pretrained_model" for p in folders], root, base, held, tokenizer)
            result = {"cpu_s_per_step": seconds / steps, "steps": [int(p.name) for p in folders], "losses": losses}
            (out / "result.json").write_text(json.dumps(result))
        rows[name] = json.loads((out / "result.json").read_text())
        target = rows["lerobot expert-only"]["losses"][-1]
        row = rows[name]
        row["reached"] = passes(np.array(row["steps"]), np.array(row["losses"]), target)
        stock = rows["lerobot expert-only"]
        if row["reached"] is not None:
            row["cpu_s"] = row["reached"] * row["cpu_s_per_step"]
            row["faster"] = args.steps * stock["cpu_s_per_step"] / row["cpu_s"]
        print(
            f"{name:26s} end {row['losses'][-1]:.4f}  {row['cpu_s_per_step'] * 1e3:6.1f} ms/step  reaches {target:.4f} "
            f"at step {row['reached'] and round(row['reached'])}, {row.get('faster', float('nan')):.2f}x", flush=True,
        )  # fmt: skip
    (args.output / "learning.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
