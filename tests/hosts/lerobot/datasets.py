"""Small LeRobot data sets, and the host's own training command as a subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from apt_plugin.hosts.lerobot.sizes import TINY
from tests import processes
from tests.hosts.lerobot.tiny import ACTION, CAMERAS, STATE


def write(
    root: Path, tasks: list[str], episodes: int = 6, frames: int = 8, videos: bool = False, state: int = STATE
) -> Path:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features: dict = {
        name: {"dtype": "video" if videos else "image", "shape": (28, 28, 3), "names": ["height", "width", "channel"]}
        for name in CAMERAS
    }
    features["observation.state"] = {"dtype": "float32", "shape": (state,), "names": None}
    features["action"] = {"dtype": "float32", "shape": (ACTION,), "names": None}
    made = LeRobotDataset.create(f"test/{root.name}", fps=10, features=features, root=root, use_videos=videos)
    rng = np.random.default_rng(len(tasks))
    for episode in range(episodes):
        for _ in range(frames):
            frame = {name: rng.integers(0, 255, (28, 28, 3), dtype=np.uint8) for name in CAMERAS}
            frame["observation.state"] = rng.uniform(-1, 1, state).astype(np.float32)
            frame["action"] = rng.uniform(-1, 1, ACTION).astype(np.float32)
            made.add_frame({**frame, "task": tasks[episode % len(tasks)]})
        made.save_episode()
    made.finalize()
    return root


def strip_tasks(root: Path) -> Path:
    """What a set recorded without any annotation looks like: no task table, a total of zero."""
    info = root / "meta" / "info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"total_tasks": 0}))
    (root / "meta" / "tasks.parquet").unlink()
    return root


ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TQDM_DISABLE": "1",
}  # fmt: skip

COMMON = (
    "--policy.image_resolution=[28,28] --policy.chunk_size=5 --policy.n_action_steps=5 --policy.max_state_dim=6 "
    "--policy.max_action_dim=7 --policy.tokenizer_max_length=32 --policy.num_inference_steps=2 --policy.device=cpu "
    "--policy.push_to_hub=false --policy.optimizer_lr=1e-3 --policy.scheduler_warmup_steps=1 "
    "--dataset.video_backend=pyav --num_workers=0 --batch_size=4 --log_freq=1 --env_eval_freq=0 "
    "--seed=3"
).split()


def flags(data: Path, tok: str, **more: str | int) -> list[str]:
    """The host's flags for a tiny run; keyword names with `__` for dots."""
    own = [f"--{name.replace('__', '.')}={value}" for name, value in more.items()]
    sizes = f"--policy.sizes={json.dumps(TINY)}"
    return [
        *COMMON, sizes, f"--policy.tokenizer_name={tok}", f"--dataset.repo_id=test/{data.name}",
        f"--dataset.root={data}", *own,
    ]  # fmt: skip


def stage1(data: Path, plain: Path, tok: str, out: Path, **more: str | int) -> list[str]:
    """Flags of a native Stage-1 run."""
    own = ["--policy.type=pi05_apt", "--policy.stage=1", f"--policy.pretrained_path={plain}"]
    return [*own, *flags(data, tok, output_dir=out, **more)]


def stage2(data: Path, prior: Path, tok: str, out: Path, **more: str | int) -> list[str]:
    """Flags of a native Stage-2 run; its VLM is frozen unless a later flag says otherwise."""
    return [
        f"--policy.path={prior}",
        "--policy.stage=2",
        "--policy.recipe.vlm=frozen",
        *flags(data, tok, output_dir=out, **more),
    ]


def lerobot_train(*argv: str, native: bool = False) -> None:
    """lerobot-train in this process, as the launcher's child runs it; importing it anew costs ten seconds a run.

    `native` leaves the launcher's additions out: the host's script alone, as `lerobot-train --policy.type=pi05_apt`.
    """
    from accelerate.state import AcceleratorState
    from lerobot.scripts import lerobot_train as host

    from apt_plugin.hosts.lerobot import training

    before, sys.argv = sys.argv, ["lerobot-train", *map(str, argv)]
    if not native:
        training.install()
    try:
        host.main()
    finally:
        training.uninstall()
        sys.argv = before
        AcceleratorState._reset_state(reset_partial_state=True)


def cache_program(mode: str, *argv: str) -> None:
    """`apt-plugin cache build|verify` in this process, as the launcher's child runs it."""
    from accelerate.state import AcceleratorState
    from lerobot.scripts import lerobot_train as host

    from apt_plugin.hosts.lerobot import cache_build

    before, sys.argv = sys.argv, ["lerobot-train", *map(str, argv)]
    try:
        cache_build.main(mode, host.main)
    finally:
        sys.argv = before
        AcceleratorState._reset_state(reset_partial_state=True)


def call(*command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment; its output is in the failure message."""
    scripts = Path(sys.executable).parent
    program = [str(scripts / command[0]) if (scripts / command[0]).exists() else command[0], *command[1:]]
    done = processes.run(program, env={**ENVIRONMENT, **env})
    if check and done.returncode != 0:
        raise AssertionError(
            f"{' '.join(command[:4])} ... exited {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        )
    return done


def world(checkpoint: Path) -> int:
    """How many processes wrote a checkpoint, as the host noted it: 0.6.1 and main name it differently."""
    state = json.loads((checkpoint / "training_state/training_step.json").read_text())
    return state["dp_world_size"] if "dp_world_size" in state else state["num_processes"]
