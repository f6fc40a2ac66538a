"""An openpi checkpoint (JAX or PyTorch, stock or ours) on its config's own data, opened for `apt_plugin.listen`.

F frames   B (frame, instruction) pairs   T action tokens   A action dimensions
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from openpi.models.pi0 import Pi0

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.listen_data import Questions
from apt_plugin.hosts.openpi.listen_models import IMAGES
from apt_plugin.hosts.openpi.listen_open import Source, data_of, read
from apt_plugin.listen.hosted import Chunks, HostListener, Places, frames_wanted
from apt_plugin.listen.subject import Context, facts_of
from apt_plugin.stages import LIKELIHOOD

logger = logging.getLogger(__name__)


class OpenpiListener(HostListener):
    """One policy with frames of one data set."""

    block = IMAGES

    def __init__(
        self, source: Source, questions: Questions, count: int = 0, seed: int = 0, chosen: Places | None = None
    ):
        self.policy, self.questions = source.policy, questions
        self.gated = source.record is not None and source.record.stage == LIKELIHOOD
        # The host's policy samples with this default unless its server is told otherwise
        self.steps = int(inspect.signature(Pi0.sample_actions).parameters["num_steps"].default)
        super().__init__(questions.episodes, count, seed, chosen)
        self.facts = facts_of(
            host=f"openpi ({source.policy.framework})",
            policy="pi05" if source.model.pi05 else "pi0",
            config=source.config,
            checkpoint=source.folder,
            stage=None if source.record is None else source.record.stage,
            data=questions.episodes.name,
            tasks=len(self.tasks),
        )

    def item(self, episode: int, step: int) -> dict[str, Any]:
        return self.questions.item(episode, step)

    def chunks(self, items: Sequence[dict[str, Any]], texts: Sequence[str]) -> Chunks:
        rows = [self.questions.row(item, text) for item, text in zip(items, texts, strict=True)]
        actions = np.stack([np.asarray(row["actions"], np.float32) for row in rows])
        valid = np.stack([self.questions.valid(item, actions.shape[1]) for item in items])
        return Chunks(actions, valid, rows[0]["width"])

    def picture(self, item: dict[str, Any]) -> np.ndarray:
        image = np.asarray(next(iter(self.questions.row(item, "")["image"].values())))
        return image if image.dtype == np.uint8 else ((image.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)

    def pooled(self, items: Sequence[dict[str, Any]]) -> np.ndarray:
        return self.policy.features([self.questions.row(item, "") for item in items])

    def _rows(self, frames: Sequence[int], texts: Sequence[str]) -> list[dict[str, Any]]:
        return [self.questions.row(self.items[f], text) for f, text in zip(frames, texts, strict=True)]

    def context(self, frames: Sequence[int], texts: Sequence[str]) -> Context:
        return self.policy.context(self._rows(frames, texts))

    def gates(self) -> dict[str, float]:
        return self.policy.gates()

    def attention(self, frames: Sequence[int]) -> dict[str, float] | str:
        rows = list(frames)
        noise = np.random.default_rng(0).standard_normal((len(rows), 1, *self.frames.actions.shape[1:]))
        half = np.full((len(rows), 1), 0.5, np.float32)
        words = [self.frames.task[f] for f in rows]
        return self.policy.attention(self._rows(rows, words), noise.astype(np.float32), half)

    def evidence(self) -> Any:
        from apt_plugin.hosts.openpi.listen_evidence import OpenpiEvidence

        return OpenpiEvidence(self)

    def digest(self) -> str:
        return self.policy.digest()


def open_listener(
    policy: str,
    dataset: str = "",
    root: str = "",
    config: str = "",
    frames: int = 64,
    seed: int = 0,
    device: str = "",
    episodes: Sequence[int] | None = None,
) -> OpenpiListener:
    """An openpi checkpoint on a LeRobot data set.

    Args:
        dataset: a repo id, or a folder's full path, in place of the config's own.
        config: name of the stock training config; a checkpoint of ours knows its own.
        device: PyTorch's; JAX takes JAX_PLATFORMS. episodes: on frames of these alone.

    Raises:
        AptError: see `listen_open.read` and `listen_data.Questions`; no frames asked for, a `root`.
    """
    frames_wanted(frames)
    if root:
        raise AptError("--root is lerobot's; openpi finds data in HF_LEROBOT_HOME, or by a full path in --dataset.")
    source = read(policy, config, device)
    questions = Questions(data_of(source), source.model, dataset)
    logger.info("listen: %s (%s) on %s", source.config, source.policy.framework, questions.episodes.name)
    chosen = None if episodes is None else questions.episodes.spread(frames, seed, among=set(episodes))
    return OpenpiListener(source, questions, frames, seed, chosen)


def open_base(path: str, listener: OpenpiListener, device: str = "", config: str = "") -> Any:
    """The VLM of a base checkpoint beside the listener's: `listen.evidence.Base`.

    Raises:
        AptError: see `listen_open.read`; the base is of the other framework, or no base of this policy.
    """
    from apt_plugin.hosts.openpi.listen_evidence import beside

    return beside(listener.policy, read(path, config or listener.facts["config"], device).policy, path)
