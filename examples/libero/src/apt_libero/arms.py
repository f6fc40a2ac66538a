"""The arms, as the commands that anybody would type: lerobot's own training, or the launcher in front of it.

Every arm has the same data, the same number of steps in all, the same rate and the same grounded VLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apt_libero.plan import WAIT
from apt_plugin.errors import choose
from apt_plugin.tabletop.checkpoint import host_flags

LONGEST = 60  # decisions of an episode; a demonstration has about 40
WARM_UP = 50  # steps in which the rate rises; a quarter of a run that is shorter than four times that


@dataclass(frozen=True)
class Arm:
    """`host`: a policy type of lerobot's; `recipe`: behind the launcher, empty: lerobot's own command."""

    says: str
    host: str = "pi05_tiny"
    recipe: tuple[str, ...] = ()


#: own first: what the others are compared with.
ARMS: Mapping[str, Arm] = {
    "own": Arm("lerobot's own full training"),
    "warm-up": Arm("the same, the VLM frozen for the first 30 % of the steps", recipe=("--recipe", "warmup")),
    "gated": Arm("gated language in one stage", "pi05", ("--recipe", "apt", "--apt.stage1.steps=1")),
    "apt": Arm("half of the steps without language, then gates", "pi05", ("--recipe", "apt", "--apt.stage1.share=0.5")),
    "goal": Arm(
        "the same, the first half told the state in which its own chunk ends",
        "pi05",
        ("--recipe", "apt", "--apt.stage1.share=0.5", "--apt.prior.goal=state"),
    ),
}


@dataclass(frozen=True)
class Training:
    """How long and how fast an arm trains."""

    steps: int = 1500
    batch: int = 16
    rate: float = 1e-3
    seed: int = 0
    saves: int = 3


def folder(out: Path, arm: str, how: Training) -> Path:
    """Of a run; other settings are other runs."""
    return out / "arms" / f"{choose('--arms', arm, ARMS)}-{how.steps}x{how.batch}-{how.rate:g}-s{how.seed}"


def checkpoint(out: Path, arm: str, how: Training) -> Path:
    """What an arm leaves."""
    stage = ("stage2",) if "apt" in ARMS[arm].recipe else ()
    return folder(out, arm, how).joinpath(*stage, "checkpoints", "last", "pretrained_model")


def command(out: Path, arm: str, how: Training, dataset: Path) -> list[str]:
    """The training of an arm; typed again with `--resume=true` behind it, it goes on."""
    each = ARMS[choose("--arms", arm, ARMS)]
    rising = max(1, min(WARM_UP, how.steps // 4))
    flags = [
        *host_flags(out / "base", each.host), "--policy.train_expert_only=false",
        "--policy.freeze_vision_encoder=false", f"--policy.optimizer_lr={how.rate}",
        f"--policy.scheduler_warmup_steps={rising}", f"--policy.scheduler_decay_steps={how.steps}",
        f"--policy.scheduler_decay_lr={how.rate / 50}", "--dataset.repo_id=apt-libero/set",
        f"--dataset.root={dataset.absolute()}", "--num_workers=0", f"--batch_size={how.batch}", f"--steps={how.steps}",
        f"--save_freq={max(1, how.steps // how.saves)}", "--log_freq=50", "--env_eval_freq=0", f"--seed={how.seed}",
        "--wandb.enable=false", f"--output_dir={folder(out, arm, how)}",
    ]  # fmt: skip
    found = ["--policy.discover_packages_path=apt_plugin.tabletop.host"] if each.host == "pi05_tiny" else []
    return [*(["apt-plugin", "run"] if each.recipe else []), "lerobot-train", *found, *flags, *each.recipe]


def test_command(out: Path, arm: str, how: Training, suite: str, hz: int, pixels: int, episodes: int) -> list[str]:
    """lerobot-eval on a suite, told by the goal that is scored."""
    return [
        "lerobot-eval", "--base.discover_packages_path=apt_plugin.tabletop.host",  # with policy. it would be a policy's
        f"--policy.path={checkpoint(out, arm, how)}", "--policy.device=cpu", "--env.type=libero_scored",
        "--env.discover_packages_path=apt_plugin.libero.host", f"--env.task={suite}", f"--env.fps={hz}",
        f"--env.observation_height={pixels}", f"--env.observation_width={pixels}", "--env.camera_name=agentview_image",
        f"--env.episode_length={LONGEST}", f"--env.num_steps_wait={WAIT}",
        f"--eval.n_episodes={episodes}", "--eval.batch_size=1", f"--seed={how.seed}",
    ]  # fmt: skip
