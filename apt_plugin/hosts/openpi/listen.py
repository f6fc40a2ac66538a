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
from apt_plugin.listen.sampling import spread_over_tasks
from apt_plugin.listen.subject import Context, Frames, facts_of
from apt_plugin.stages import LIKELIHOOD

logger = logging.getLogger(__name__)

FIRST_FRAMES = 512  # episodes at most whose first frames say whether the data need language


class OpenpiListener:
    """One policy with frames of one data set; raw frames are read once, words are put in per question."""

    def __init__(
        self,
        source: Source,
        questions: Questions,
        count: int,
        seed: int = 0,
        chosen: Sequence[tuple[int, int]] | None = None,
    ):
        """
        Args:
            count: frames, spread over the instructions, unless `chosen` names them: (episode, step).
        """
        self.policy, self.questions = source.policy, questions
        self.gated = source.record is not None and source.record.stage == LIKELIHOOD
        # The host's policy samples with this default unless its server is told otherwise
        self.steps = int(inspect.signature(Pi0.sample_actions).parameters["num_steps"].default)
        self.tasks = questions.tasks
        if chosen is None:
            chosen = spread_over_tasks(questions.task, questions.length, count, seed)
        self._first = spread_over_tasks(questions.task, None, min(FIRST_FRAMES, len(questions.task)), seed)
        self._items = [questions.item(e, t) for e, t in chosen]
        self.frames = self._frames(chosen)
        self.facts = facts_of(
            host=f"openpi ({source.policy.framework})",
            policy="pi05" if source.model.pi05 else "pi0",
            config=source.config,
            checkpoint=source.folder,
            stage=None if source.record is None else source.record.stage,
            data=questions.repo,
            tasks=len(self.tasks),
        )

    def _frames(self, chosen: Sequence[tuple[int, int]]) -> Frames:
        texts = tuple(self.questions.task[e] for e, _ in chosen)
        rows = [self.questions.row(item, text) for item, text in zip(self._items, texts, strict=True)]
        actions = np.stack([np.asarray(row["actions"], np.float32) for row in rows])
        last = np.maximum(self.questions.length[[e for e, _ in chosen]] - 1, 1)
        return Frames(
            episode=np.array([e for e, _ in chosen]),
            position=np.array([t for _, t in chosen]) / last,
            task=texts,
            actions=actions,
            valid=np.stack([self.questions.valid(item, actions.shape[1]) for item in self._items]),
            pictures=np.stack([_picture(next(iter(row["image"].values()))) for row in rows]),
            width=rows[0]["width"],
        )

    def _rows(self, frames: Sequence[int], texts: Sequence[str]) -> list[dict[str, Any]]:
        return [self.questions.row(self._items[f], text) for f, text in zip(frames, texts, strict=True)]

    def context(self, frames: Sequence[int], texts: Sequence[str]) -> Context:
        return self.policy.context(self._rows(frames, texts))

    def first_frames(self) -> tuple[np.ndarray, list[str]]:
        items = (self.questions.item(e, 0) for e, _ in self._first)
        return self._features(items), [self.questions.task[e] for e, _ in self._first]

    def features(self, frames: Sequence[int]) -> np.ndarray:
        return self._features(self._items[f] for f in frames)

    def _features(self, items: Any) -> np.ndarray:
        """What the frozen image tower says, pooled: no instruction takes part."""
        found, rows = [], []
        for item in items:
            rows.append(self.questions.row(item, ""))
            if len(rows) == IMAGES:
                found.append(self.policy.features(rows))
                rows = []
        if rows:
            found.append(self.policy.features(rows))
        return np.concatenate(found)

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


def _picture(image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return ((image.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


def open_listener(
    policy: str,
    dataset: str = "",
    root: str = "",
    config: str = "",
    frames: int = 64,
    seed: int = 0,
    device: str = "",
) -> OpenpiListener:
    """An openpi checkpoint on a LeRobot data set.

    Args:
        dataset: a repo id, or a folder's full path, in place of the config's own.
        config: name of the stock training config; a checkpoint of ours knows its own.
        device: PyTorch's; JAX takes JAX_PLATFORMS.

    Raises:
        AptError: see `listen_open.read` and `listen_data.Questions`; no frames asked for, a `root`.
    """
    if frames < 1:
        raise AptError(f"--frames is {frames}; write 1 or more (64 is the default).")
    if root:
        raise AptError("--root is lerobot's; openpi finds data in HF_LEROBOT_HOME, or by a full path in --dataset.")
    source = read(policy, config, device)
    questions = Questions(data_of(source), source.model, dataset)
    logger.info("listen: %s (%s) on %s", source.config, source.policy.framework, questions.repo)
    return OpenpiListener(source, questions, frames, seed)


def open_base(path: str, listener: OpenpiListener, device: str = "", config: str = "") -> Any:
    """The VLM of a base checkpoint beside the listener's: `listen.evidence.Base`.

    Raises:
        AptError: see `listen_open.read`; the base is of the other framework, or no base of this policy.
    """
    from apt_plugin.hosts.openpi.listen_evidence import beside

    return beside(listener.policy, read(path, config or listener.facts["config"], device).policy, path)
