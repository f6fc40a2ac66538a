"""A lerobot policy and frames of its data set, opened for `apt_plugin.listen`.

    F frames   B (frame, instruction) pairs   T action tokens   A action dimensions

π0, π0.5, SmolVLA, GR00T as they come, and what the recipe made of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apt_plugin.backends import torch_listen, torch_params
from apt_plugin.backends.torch_evidence import Beside
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import cards
from apt_plugin.hosts.lerobot.families import find
from apt_plugin.hosts.lerobot.groups import VLM
from apt_plugin.hosts.lerobot.listen_attention import attention_of
from apt_plugin.hosts.lerobot.listen_evidence import LerobotEvidence
from apt_plugin.hosts.lerobot.listening import STOCK_VLM, Listening
from apt_plugin.hosts.lerobot.opening import Opened, make_room, open_dataset, open_policy
from apt_plugin.listen.hosted import Chunks, Episodes, HostListener, Places, frames_wanted
from apt_plugin.listen.subject import Context, facts_of
from apt_plugin.stages import LIKELIHOOD, RECORD, read_record

logger = logging.getLogger(__name__)


class LerobotListener(HostListener):
    """One policy with frames of one data set."""

    block = 32

    def __init__(self, opened: Opened, dataset: Any, count: int = 0, seed: int = 0, chosen: Places | None = None):
        self.policy, self.preprocessor = opened.policy, opened.preprocessor
        self.config, self.dataset = opened.policy.config, dataset
        self.stage = getattr(self.config, "stage", None)
        self.gated = self.stage == LIKELIHOOD
        family = find(self.config.type)
        self.listening = Listening() if family is None else family.listening()
        self.steps = self.listening.steps(self.policy)
        super().__init__(episodes_of(dataset.meta), count, seed, chosen)
        self.facts = facts_of(
            host="lerobot",
            policy=self.config.type,
            checkpoint=opened.folder,
            stage=self.stage,
            data=getattr(dataset, "repo_id", ""),
            tasks=len(self.tasks),
        )
        record = opened.folder / RECORD
        self.began = (read_record(opened.folder).vlm_start or "") if record.is_file() else ""

    def flow(self) -> Any:
        return self.listening.flow(self.policy)

    # -- frames -------------------------------------------------------------------------------------------

    def _raw(self, items: Sequence[dict], texts: Sequence[str]) -> dict[str, Any]:
        """Frames as the host's loader would stack them, with other words."""
        names = [n for n, v in items[0].items() if isinstance(v, Tensor)]
        batch: dict[str, Any] = {n: torch.stack([item[n] for item in items]) for n in names}
        return {**batch, "task": list(texts)}

    def item(self, episode: int, step: int) -> dict[str, Any]:
        return self.dataset[int(self.dataset.meta.episodes[episode]["dataset_from_index"]) + step]

    def chunks(self, items: Sequence[dict], texts: Sequence[str]) -> Chunks:
        batch = self.preprocessor(self._raw(items, texts))
        actions, valid = self.listening.chunk(self.policy, batch)
        return Chunks(actions, valid, int(self.config.action_feature.shape[0]))

    def picture(self, item: dict[str, Any]) -> np.ndarray:
        own = next(iter(self.config.image_features), None) if self.config.image_features else None
        image = next((item[name] for name in (own, *self.dataset.meta.camera_keys) if name in item), None)
        if image is None:
            return np.zeros((8, 8, 3), np.uint8)
        frame = image[-1] if image.dim() == 4 else image
        return (frame.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()

    @torch.inference_mode()
    def pooled(self, items: Sequence[dict]) -> np.ndarray:
        batch = self.preprocessor(self._raw(items, [""] * len(items)))
        return self.listening.features(self.policy, batch)

    # -- what is asked ------------------------------------------------------------------------------------

    def context(self, frames: Sequence[int], texts: Sequence[str]) -> Context:
        return self._context([self.items[f] for f in frames], texts)

    def _context(self, items: Sequence[dict], texts: Sequence[str]) -> Any:
        if len(items) > 1 and self.listening.alone(self.policy):
            return torch_listen.OneByOne([self._context([i], [t]) for i, t in zip(items, texts, strict=True)])
        return self.listening.context(self.policy, self.preprocessor(self._raw(items, texts)))

    def prompts(self, frames: Sequence[int], texts: Sequence[str]) -> dict[str, Any]:
        """The processed batch of frames under these words, prompt tokens among it."""
        return self.preprocessor(self._raw([self.items[f] for f in frames], texts))

    def gates(self) -> dict[str, float]:
        fusion = getattr(self.flow(), "apt_fusion", None)
        return {} if fusion is None else fusion.openings()

    def attention(self, frames: Sequence[int]) -> dict[str, float] | str:
        return attention_of(self, list(frames))

    def model_card(self) -> str:
        """By lerobot's own template; ours adds how the recipe trained it."""
        return cards.fresh(self.policy, str(getattr(self.dataset, "repo_id", "")))

    def digest(self) -> str:
        return torch_params.digest(_vlm(self.policy).items())

    def evidence(self) -> LerobotEvidence:
        return LerobotEvidence(self, _vlm(self.policy))

    def base(self, path: str) -> Beside:
        """The VLM of a base checkpoint beside this policy's."""
        return Beside(_vlm(self.policy), _vlm(open_policy(path, str(self.config.device)).policy), path)


def episodes_of(meta: Any) -> Episodes:
    """Every episode of a data set, with its first task as the instruction.

    Raises:
        AptError: there is none.
    """
    table = meta.episodes
    if table is None or not len(table):
        raise AptError(f"{meta.repo_id} has no episodes.")
    said = [str(row["tasks"][0] if len(row["tasks"]) else "") for row in table.select_columns(["tasks"])]
    begin, end = (np.asarray(table[name]) for name in ("dataset_from_index", "dataset_to_index"))
    return Episodes(str(meta.repo_id), said, (end - begin).tolist())


def _vlm(policy: Any) -> dict[str, Tensor]:
    """The VLM's parameters, without PEFT's wrapping in their names."""
    parts = (*VLM, STOCK_VLM)
    named = ((n.replace(".base_layer.", "."), p) for n, p in policy.named_parameters() if ".lora_" not in n)
    return {name: p for name, p in named if any(part in f".{name}" for part in parts)}


def open_listener(
    policy: str, dataset: str, root: str = "", frames: int = 64, seed: int = 0, device: str = "",
    episodes: Sequence[int] | None = None, revision: str | None = None,
) -> Any:  # fmt: skip
    """A lerobot checkpoint on a LeRobot data set, at a revision of it; `episodes`: on frames of these alone.

    Raises:
        AptError: see `opening`; no frames asked for.
    """
    frames_wanted(frames)
    opened = open_policy(policy, device)
    data = open_dataset(dataset, root, opened, revision)
    make_room(opened.preprocessor)
    logger.info("listen: %s on %s", opened.policy.config.type, dataset)
    chosen = None if episodes is None else episodes_of(data.meta).spread(frames, seed, among=set(episodes))
    return LerobotListener(opened, data, frames, seed, chosen)
