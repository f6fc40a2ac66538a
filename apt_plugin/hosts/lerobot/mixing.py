"""Data of the two stages: sets without any task, and labelled data mixed with unlabelled.

A mixed set is one virtual sequence of episodes, so that lerobot's sampler, sharding and sample-exact resume work on
it as on any other set: episodes of one source are repeated, whole copies first, until the share is met.
"""

from __future__ import annotations

import bisect
import logging
from typing import Any

import pandas as pd
import torch

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import renaming
from apt_plugin.recipe import Mix

logger = logging.getLogger(__name__)


def fill_tasks(dataset: Any) -> None:
    """Give a set without task annotation the empty instruction: its reader looks one up for every frame."""
    if dataset is None or dataset.meta.tasks is not None:
        return
    column = dataset.hf_dataset.data.column("task_index").to_pylist() if len(dataset) else [0]
    rows = int(max(column)) + 1
    dataset.meta.tasks = pd.DataFrame({"task_index": range(rows)}, index=pd.Index([""] * rows, name="task"))
    logger.info("APT: %s has no task annotation: every frame gets the empty instruction.", dataset.repo_id)


def load_like(labelled: Any, mix: Mix, cfg: Any) -> Any:
    """The unlabelled set of a mix, cut into the same action chunks as the labelled one.

    Raises:
        AptError: its features differ, so that one batch could not hold both.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    deltas = renaming.chunks(cfg.policy, labelled.meta, cfg.rename_map)
    other = LeRobotDataset(
        mix.repo_id or labelled.repo_id, root=mix.root or None, delta_timestamps=deltas, return_uint8=True,
        image_transforms=labelled.image_transforms, video_backend=cfg.dataset.video_backend,
        tolerance_s=cfg.tolerance_s,
    )  # fmt: skip
    fill_tasks(other)
    want, have = (
        {
            k: (f["dtype"], tuple(f["shape"]))
            for k, f in d.meta.features.items()
            if k.startswith(("observation", "action"))
        }
        for d in (labelled, other)
    )
    if want != have:
        differ = sorted(k for k in want.keys() | have.keys() if want.get(k) != have.get(k))
        first = differ[0]
        raise AptError(
            f"mix.repo_id={mix.repo_id!r} does not fit the labelled data: {', '.join(differ)} differ (e.g. {first}: "
            f"{want.get(first)} and {have.get(first)})."
        )
    return other


class _Meta:
    """The labelled set's metadata with the episodes of the mix."""

    def __init__(self, meta: Any, episodes: dict[str, list[int]]):
        self._meta, self.episodes = meta, episodes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_meta":  # pickling asks before __init__ has run
            raise AttributeError(name)
        return getattr(self._meta, name)


class MixedDataset(torch.utils.data.Dataset):
    """Labelled frames, and `share` of unlabelled ones under the empty instruction."""

    episodes = None  # every virtual episode is used
    absolute_to_relative_idx = None  # and they are numbered as they are read

    def __init__(self, labelled: Any, unlabelled: Any, share: float):
        self.sources = (labelled, unlabelled)
        spans = [_spans(source) for source in self.sources]
        have = [sum(b - a for a, b in part) for part in spans]
        if min(have) == 0:
            raise AptError("A mix needs frames in both data sets; one of them is empty.")
        # Repeat whichever source falls short of its share, never cut the other.
        wanted = (have[0], have[0] * share / (1 - share))
        if have[1] > wanted[1]:
            wanted = (have[1] * (1 - share) / share, have[1])
        self.plan: list[tuple[int, int, int]] = []  # (source, first row, last row + 1)
        for source, (part, target) in enumerate(zip(spans, wanted, strict=True)):
            rows, turn = 0, 0
            while rows < target - 1e-9:
                a, b = part[turn % len(part)]
                self.plan.append((source, a, b))
                rows, turn = rows + b - a, turn + 1
        ends, total = [], 0
        for _, a, b in self.plan:
            total += b - a
            ends.append(total)
        self.ends = ends
        starts = [0, *ends[:-1]]
        self.meta = _Meta(labelled.meta, {"dataset_from_index": starts, "dataset_to_index": ends})
        got = sum(b - a for source, a, b in self.plan if source) / total
        logger.info(
            "APT: mixed data: %d frames, %.1f %% unlabelled (asked for %.1f %%).", total, 100 * got, 100 * share
        )

    @property
    def num_frames(self) -> int:
        return self.ends[-1]

    @property
    def num_episodes(self) -> int:
        return len(self.plan)

    def __len__(self) -> int:
        return self.num_frames

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "sources":
            raise AttributeError(name)
        return getattr(self.sources[0], name)

    def __getitem__(self, index: int) -> dict[str, Any]:
        episode = bisect.bisect_right(self.ends, index)
        source, first, last = self.plan[episode]
        item = dict(self.sources[source][first + index - (self.ends[episode] - (last - first))])
        if source:
            item["task"] = ""
            if "index" in item:  # frame numbers key the noise: keep the two sources apart
                item["index"] = item["index"] + self.sources[0].meta.total_frames
        return item


def _spans(dataset: Any) -> list[tuple[int, int]]:
    """Row ranges of the episodes that a LeRobotDataset really holds (an episode filter renumbers rows)."""
    table, renumber = dataset.meta.episodes, dataset.absolute_to_relative_idx
    chosen = dataset.episodes if dataset.episodes is not None else range(len(table["dataset_from_index"]))
    spans = []
    for episode in chosen:
        a, b = int(table["dataset_from_index"][episode]), int(table["dataset_to_index"][episode])
        if renumber is not None:
            a, b = renumber[a], renumber[b - 1] + 1
        if b > a:
            spans.append((a, b))
    return spans
