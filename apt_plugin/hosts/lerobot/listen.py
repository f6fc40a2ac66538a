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
from lerobot.utils.constants import OBS_LANGUAGE_TOKENS
from torch import Tensor

from apt_plugin.backends import torch_listen, torch_params
from apt_plugin.backends.torch_evidence import Beside
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.flow import AptFlow, PromptBatch
from apt_plugin.hosts.lerobot.groups import VLM
from apt_plugin.hosts.lerobot.listen_attention import attention_of
from apt_plugin.hosts.lerobot.listen_evidence import LerobotEvidence
from apt_plugin.hosts.lerobot.opening import Opened, make_room, open_dataset, open_policy
from apt_plugin.listen.sampling import spread_over_tasks
from apt_plugin.listen.subject import Context, Frames, facts_of
from apt_plugin.stages import LIKELIHOOD, RECORD, read_record

logger = logging.getLogger(__name__)

Places = Sequence[tuple[int, int]]
FIRST_FRAMES = 512  # episodes at most whose first frames say whether the data need language


class LerobotListener:
    """One policy with frames of one data set; raw frames are read once, words are put in per question."""

    def __init__(self, opened: Opened, dataset: Any, count: int, seed: int = 0, chosen: Places | None = None):
        """`chosen` (episode, step) pairs of any episodes, labelled or not; else `count` frames of labelled ones."""
        self.policy, self.preprocessor = opened.policy, opened.preprocessor
        self.config, self.dataset = opened.policy.config, dataset
        self.stage = getattr(self.config, "stage", None)
        self.gated = self.stage == LIKELIHOOD
        self.steps = int(
            getattr(self.config, "num_inference_steps", 0)
            or getattr(self.config, "num_steps", 0)
            or self.flow().action_head.num_inference_timesteps
        )
        rows = EpisodeTable(dataset.meta, silent=chosen is not None)
        self.tasks, self._labels = rows.tasks, rows.said
        chosen = spread_over_tasks(rows.task, rows.length, count, seed) if chosen is None else chosen
        self._first = spread_over_tasks(rows.task, None, min(FIRST_FRAMES, len(rows.task)), seed)
        self._starts = rows.start
        self._first_tasks = [rows.task[e] for e, _ in self._first]
        self._items = [dataset[int(rows.start[e] + t)] for e, t in chosen]
        self.frames = self._frames(rows, chosen)
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
        return getattr(self.policy, "_groot_model", None) or self.policy.model

    # -- frames -------------------------------------------------------------------------------------------

    def _raw(self, items: Sequence[dict], texts: Sequence[str]) -> dict[str, Any]:
        """Frames as the host's loader would stack them, with other words."""
        names = [n for n, v in items[0].items() if isinstance(v, Tensor)]
        batch: dict[str, Any] = {n: torch.stack([item[n] for item in items]) for n in names}
        return {**batch, "task": list(texts)}

    def _frames(self, rows: EpisodeTable, chosen: Places) -> Frames:
        texts = tuple(rows.task[e] for e, _ in chosen)
        actions, valid = [], []
        for start in range(0, len(chosen), 32):
            part = slice(start, start + 32)
            batch = self.preprocessor(self._raw(self._items[part], texts[part]))
            chunk, ok = self._chunk(batch)
            actions.append(chunk)
            valid.append(ok)
        camera = next(iter(self.config.image_features), None) if self.config.image_features else None
        camera = next((n for n in (camera, *self.dataset.meta.camera_keys) if n in self._items[0]), None)
        last = np.maximum(np.array([rows.length[e] for e, _ in chosen]) - 1, 1)
        return Frames(
            episode=np.array([e for e, _ in chosen]),
            position=np.array([t for _, t in chosen]) / last,
            task=texts,
            actions=np.concatenate(actions),
            valid=np.concatenate(valid),
            pictures=np.stack([_picture(item.get(camera)) for item in self._items]),
            width=int(self.config.action_feature.shape[0]),
        )

    def _chunk(self, batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Demonstrated chunks [B, T, A] as the model is trained on them, and which steps are in the episode [B, T]."""
        if self.is_groot():
            inputs = self.policy._filter_groot_inputs(batch, include_action=True)
            actions, mask = inputs["action"].float(), inputs["action_mask"].bool()
            ok = mask.any(-1) if mask.dim() == 3 else mask
        else:
            actions = self.policy.prepare_action(batch).float()
            pad = batch.get("action_is_pad")
            ok = torch.ones(actions.shape[:2], dtype=torch.bool) if pad is None else ~pad.bool()
        return actions.cpu().numpy(), ok[:, : actions.shape[1]].cpu().numpy()

    def is_groot(self) -> bool:
        return hasattr(self.policy, "_filter_groot_inputs")

    # -- what is asked ------------------------------------------------------------------------------------

    def context(self, frames: Sequence[int], texts: Sequence[str]) -> Context:
        return self._context([self._items[f] for f in frames], texts)

    def _context(self, items: Sequence[dict], texts: Sequence[str]) -> Any:
        policy, model = self.policy, self.flow()
        if self.is_groot() and not hasattr(model, "apt_features") and len(items) > 1:
            return torch_listen.OneByOne([self._context([i], [t]) for i, t in zip(items, texts, strict=True)])
        batch = self.preprocessor(self._raw(items, texts))
        device = next(policy.parameters()).device
        if self.is_groot():
            inputs = policy._filter_groot_inputs(batch, include_action=False)
            ours = hasattr(model, "apt_features")
            made = torch_listen.AptGrootContext if ours else torch_listen.GrootContext
            return made(model, inputs, bool(self.config.use_bf16))
        if isinstance(model, AptFlow):
            with torch.inference_mode():
                images, masks = policy._preprocess_images(batch)
                cache = model.prefix(images, masks, PromptBatch.of(batch))
            return torch_listen.AptPiContext(model, cache, policy._state(batch), device)
        if not hasattr(model, "denoise_step"):
            raise AptError(
                f"listen does not know how {self.config.type!r} denoises. In lerobot it knows pi0, pi05, smolvla, "
                "groot and the recipe's policies."
            )
        made = torch_listen.DenoiseContext(model, lambda: policy.predict_action_chunk(batch), device)
        made.text_tokens = batch[OBS_LANGUAGE_TOKENS].shape[1]
        return made

    def prompts(self, frames: Sequence[int], texts: Sequence[str]) -> dict[str, Any]:
        """The processed batch of frames under these words, prompt tokens among it."""
        return self.preprocessor(self._raw([self._items[f] for f in frames], texts))

    def first_frames(self) -> tuple[np.ndarray, list[str]]:
        found = []
        for start in range(0, len(self._first), 64):
            items = [self.dataset[int(self._starts[e])] for e, _ in self._first[start : start + 64]]
            found.append(self._features(items))
        return np.concatenate(found), self._first_tasks

    def features(self, frames: Sequence[int]) -> np.ndarray:
        return np.concatenate([self._features([self._items[f]]) for f in frames])

    @torch.inference_mode()
    def _features(self, items: Sequence[dict]) -> np.ndarray:
        """What the frozen image tower says, pooled: no instruction takes part."""
        batch = self.preprocessor(self._raw(items, [""] * len(items)))
        model = self.flow()
        if self.is_groot():
            inputs = self.policy._filter_groot_inputs(batch, include_action=False)
            return torch_listen.groot_features(model, inputs, bool(self.config.use_bf16))
        prepare = getattr(self.policy, "_preprocess_images", None) or self.policy.prepare_images
        images, _ = prepare(batch)
        tower = getattr(model, "paligemma_with_expert", None) or model.vlm_with_expert
        return torch_listen.pooled([tower.embed_image(image) for image in images])

    def gates(self) -> dict[str, float]:
        fusion = getattr(self.flow(), "apt_fusion", None)
        return {} if fusion is None else fusion.openings()

    def attention(self, frames: Sequence[int]) -> dict[str, float] | str:
        return attention_of(self, list(frames))

    def digest(self) -> str:
        return torch_params.digest(_vlm(self.policy).items())

    def evidence(self) -> LerobotEvidence:
        return LerobotEvidence(self, _vlm(self.policy), self._labels)

    def base(self, path: str) -> Beside:
        """The VLM of a base checkpoint beside this policy's."""
        return Beside(_vlm(self.policy), _vlm(open_policy(path, str(self.config.device)).policy), path)


class EpisodeTable:
    """Start, length and first task of every episode that has an instruction; `silent`: of those without one, too."""

    def __init__(self, meta: Any, silent: bool = False):
        table = meta.episodes
        if table is None or not len(table):
            raise AptError(f"{meta.repo_id} has no episodes.")
        said = [(row["tasks"][0] if len(row["tasks"]) else "") for row in table.select_columns(["tasks"])]
        self.said = [str(text) for text in said]  # of every episode
        kept = [i for i, text in enumerate(said) if silent or str(text).strip()]
        if not kept:
            raise AptError(f"{meta.repo_id} has no instruction in any episode: listen needs labelled data.")
        begin, end = (np.asarray(table[name]) for name in ("dataset_from_index", "dataset_to_index"))
        self.start, self.length = begin[kept], (end - begin)[kept]
        self.task = [str(said[i]) for i in kept]
        self.tasks = sorted(set(self.task))


def _picture(image: Tensor | None) -> np.ndarray:
    if image is None:
        return np.zeros((8, 8, 3), np.uint8)
    frame = image[-1] if image.dim() == 4 else image
    return (frame.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _vlm(policy: Any) -> dict[str, Tensor]:
    """The VLM's parameters, without PEFT's wrapping in their names."""
    parts = (*VLM, ".vlm_with_expert.vlm.")
    named = ((n.replace(".base_layer.", "."), p) for n, p in policy.named_parameters() if ".lora_" not in n)
    return {name: p for name, p in named if any(part in f".{name}" for part in parts)}


def open_listener(policy: str, dataset: str, root: str = "", frames: int = 64, seed: int = 0, device: str = "") -> Any:
    """A lerobot checkpoint on a LeRobot data set.

    Raises:
        AptError: see `opening`; no frames asked for.
    """
    if frames < 1:
        raise AptError(f"--frames is {frames}; write 1 or more (64 is the default).")
    opened = open_policy(policy, device)
    data = open_dataset(dataset, root, opened)
    make_room(opened.preprocessor)
    logger.info("listen: %s on %s", opened.policy.config.type, dataset)
    return LerobotListener(opened, data, frames, seed)
