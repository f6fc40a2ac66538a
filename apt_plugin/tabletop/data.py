"""Write the world's demonstrations as a LeRobotDataset (v3.0), through lerobot's own API.

One camera, `observation.images.top` (uint8 RGB, stored as PNG: a video would cost more to decode than these
few pixels), `observation.state` and `action` (float32, x, y, opening), and the instruction as the frame's
task. *Unlabelled* data are the same demonstrations with the task "", lerobot's own way of having none:
vision-action pairs for a language-free first stage.
"""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import track

from apt_plugin.tabletop import arm
from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.world import Episodes, World

logger = logging.getLogger(__name__)

CAMERA = "observation.images.top"
FPS = 5
AXES = ["x", "y", "opening"]
FEATURES = {
    CAMERA: {
        "dtype": "image",
        "shape": (IMAGE_SIZE, IMAGE_SIZE, 3),
        "names": ["height", "width", "channels"],
    },
    "observation.state": {"dtype": "float32", "shape": (3,), "names": AXES},
    "action": {"dtype": "float32", "shape": (3,), "names": AXES},
}


def frames(episodes: Episodes, draw: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Roll the demonstrator out; `draw=False` leaves the images out (zero of them).

    Returns:
        images uint8 (B, T, P, P, 3), states float32 (B, T, 3) before each step, actions float32 (B, T, 3);
        T is `arm.HORIZON`, twice that for chained episodes.

    Raises:
        ValueError: some of the episodes are chained and some are not (`Episodes.by_legs` takes them apart).
    """
    actions = episodes.demonstrate()
    states = [episodes.start]
    for t in range(actions.shape[1] - 1):
        states.append(arm.step(states[-1], actions[:, t]))
    images = np.stack([episodes.render(state) for state in states], axis=1) if draw else np.empty(0, np.uint8)
    return images, np.stack(states, axis=1), actions


def reference_stats(world: World) -> dict[str, dict[str, np.ndarray]]:
    """Exact statistics of `observation.state` and `action` over a fixed sample of the world's demonstrations.

    lerobot averages the quantiles of single episodes (`compute_stats.aggregate_feature_stats`). An episode
    covers a sliver of the table, so the averaged q01 and q99 are far too narrow: normalised values leave
    [-1, 1], and with it the 256 bins of π0.5's prompt (measured here: 76 % of the states do, and actions
    reach 6). One fixed sample for every set of a world also makes the sets of two training stages normalise
    alike.
    """
    parts = [frames(part, draw=False)[1:] for part in world.training(2048).by_legs()]
    stats = {}
    for key, values in zip(("observation.state", "action"), zip(*parts, strict=True), strict=True):
        flat = np.concatenate([some.reshape(-1, some.shape[-1]) for some in values]).astype(np.float64)
        stats[key] = {name: getattr(flat, name)(axis=0) for name in ("min", "max", "mean", "std")}
        stats[key]["count"] = np.array([len(flat)])
        for percent in (1, 10, 50, 90, 99):
            stats[key][f"q{percent:02d}"] = np.quantile(flat, percent / 100, axis=0)
    return stats


def blocks(episodes: Episodes, labelled: bool, progress: bool = True) -> Iterator[Episodes]:
    """A hundred episodes at a time, which bounds what is drawn at once; where chained ones are mixed in, the single
    ones first."""
    what = f"Writing {len(episodes)} {'demonstrations' if labelled else 'unlabelled pairs'}"
    for first in track(range(0, len(episodes), 100), description=what, disable=not progress):
        yield from episodes[first : first + 100].by_legs()


def write(
    root: Path | str,
    episodes: Episodes,
    stats: dict[str, dict[str, np.ndarray]] | None = None,
    repo_id: str = "tabletop/demonstrations",
    labelled: bool = True,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write `episodes` as a LeRobotDataset under `root` and return `root`.

    Train on it with `--dataset.repo_id=<repo_id> --dataset.root=<root>`. Where chained episodes are mixed in, each
    hundred is written with its single ones first.

    Args:
        root: a directory that does not exist yet (lerobot insists on creating it).
        stats: statistics to store for normalisation, see `reference_stats`; None keeps lerobot's own.
        labelled: False writes the task "" instead of the instruction.
        overwrite: delete what is at `root` first; refuses a directory that is not a LeRobotDataset.

    Raises:
        FileExistsError: `root` exists and `overwrite` is False, or it is not a LeRobotDataset.
    """
    import datasets
    from lerobot.datasets.io_utils import write_stats
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = Path(root)
    if root.exists():
        ours = (root / "meta" / "info.json").is_file()
        if not overwrite or not ours:
            why = (
                "pass overwrite=True or choose another root"
                if ours
                else "and it is no LeRobotDataset, so it is left alone"
            )
            raise FileExistsError(f"{root} exists; {why}.")
        shutil.rmtree(root)
    # One large metadata batch: the default (10) flushes, hence rewrites, a parquet file every ten episodes.
    dataset = LeRobotDataset.create(
        repo_id=repo_id,
        fps=FPS,
        features=FEATURES,
        root=root,
        robot_type="tabletop",
        use_videos=False,
        metadata_buffer_size=500,
    )
    noisy = datasets.is_progress_bar_enabled()  # its "Map" bar, once an episode
    datasets.disable_progress_bar()
    for some in blocks(episodes, labelled, progress):
        images, states, actions = frames(some)
        tasks = some.instructions() if labelled else [""] * len(some)
        for row, task in enumerate(tasks):
            for t in range(actions.shape[1]):
                dataset.add_frame(
                    {
                        CAMERA: images[row, t],
                        "observation.state": states[row, t],
                        "action": actions[row, t],
                        "task": task,
                    }
                )
            dataset.save_episode()
    if noisy:
        datasets.enable_progress_bar()
    dataset.finalize()
    if stats is not None:
        write_stats({**(dataset.meta.stats or {}), **stats}, root)
    logger.info("wrote %d episodes (%s) to %s", len(episodes), "labelled" if labelled else "unlabelled", root)
    return root


def write_training(root: Path | str, world: World, count: int, seed: int = 0, labelled: bool = True, **options) -> Path:
    """`write` for `world.training(count, seed)`. Use different seeds for labelled and unlabelled sets, or
    they share scenes."""
    options.setdefault("stats", reference_stats(world))
    return write(root, world.training(count, seed), labelled=labelled, **options)
