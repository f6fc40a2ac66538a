"""An Isaac GR00T policy and frames of its data set, opened for `apt_plugin.listen`.

F frames   B (frame, instruction) pairs   T action tokens   A action dimensions
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apt_plugin.backends import torch_attention, torch_evidence, torch_listen, torch_params
from apt_plugin.backends.torch_evidence import Beside
from apt_plugin.hosts.gr00t import register
from apt_plugin.hosts.gr00t.opening import Opened, check_data, open_data, open_policy
from apt_plugin.listen.evidence import Arrived, Tensor
from apt_plugin.listen.hosted import Chunks, Episodes, HostEvidence, HostListener, Places, frames_wanted
from apt_plugin.listen.subject import Context, facts_of
from apt_plugin.stages import LIKELIHOOD

logger = logging.getLogger(__name__)


class Gr00tListener(HostListener):
    """One model with its own processor, on one data set read by the host's own loader."""

    block = 1  # a stock GR00T's adapter attends to padding
    most_first = 128  # each episode is decoded whole by the host's loader

    def __init__(
        self, opened: Opened, loader: Any, count: int = 0, seed: int = 0, chosen: Places | None = None,
        episodes: Episodes | None = None,
    ):  # fmt: skip
        """
        Args:
            episodes: of this data set, where they have been read already.
        """
        self.model, self.processor, self.tag, self.loader = opened.model, opened.processor, opened.tag, loader
        self.steps = int(self.model.action_head.num_inference_timesteps)
        self.gated = getattr(self.model, "apt_stage", None) == LIKELIHOOD
        self._episodes: dict[int, Any] = {}
        super().__init__(episodes or episodes_of(loader), count, seed, chosen)
        self.facts = facts_of(
            host="Isaac GR00T", policy=self.model.config.model_type, checkpoint=opened.folder,
            stage=getattr(self.model, "apt_stage", None), data=loader.dataset_path, tasks=len(self.tasks),
        )  # fmt: skip

    # -- frames -------------------------------------------------------------------------------------------

    def _episode(self, index: int) -> Any:
        if index not in self._episodes:
            if len(self._episodes) > 8:  # whole videos: keep a few
                self._episodes.pop(next(iter(self._episodes)))
            self._episodes[index] = self.loader[index]
        return self._episodes[index]

    def item(self, episode: int, step: int) -> Any:
        from gr00t.data.dataset.sharded_single_step_dataset import extract_step_data

        known = self.loader.modality_configs
        return extract_step_data(self._episode(episode), step, known, self.tag, allow_padding=True)

    def _inputs(self, steps: Sequence[Any], texts: Sequence[str]) -> dict[str, Any]:
        """Frames under other words, through the host's processor and collator."""
        from gr00t.data.types import MessageType

        made = []
        for step, text in zip(steps, texts, strict=True):
            instructed = dataclasses.replace(step, text=text)
            made.append(self.processor([{"type": MessageType.EPISODE_STEP.value, "content": instructed}]))
        return dict(self.processor.collator(made)["inputs"])

    def chunks(self, items: Sequence[Any], texts: Sequence[str]) -> Chunks:
        batch = self._inputs(items, texts)
        mask = batch["action_mask"].numpy() > 0
        return Chunks(batch["action"].float().numpy(), mask.any(-1), int(mask.any((0, 1)).sum()))

    def picture(self, item: Any) -> np.ndarray:
        return np.ascontiguousarray(np.asarray(next(iter(item.images.values()))[-1]), dtype=np.uint8)

    # -- what is asked ------------------------------------------------------------------------------------

    def context(self, frames: Sequence[int], texts: Sequence[str]) -> Context:
        steps = [self.items[f] for f in frames]
        if hasattr(self.model, "apt_features"):
            return torch_listen.AptGrootContext(self.model, self._observed(steps, texts))
        return torch_listen.OneByOne(
            [
                torch_listen.GrootContext(self.model, self._observed([step], [text]))
                for step, text in zip(steps, texts, strict=True)
            ]
        )

    def _observed(self, steps: Sequence[Any], texts: Sequence[str]) -> dict[str, Any]:
        """As at inference: the demonstrated actions stay out, or the host would take them for real-time chunking."""
        inputs = self._inputs(steps, texts)
        return {name: value for name, value in inputs.items() if name not in ("action", "action_mask")}

    def pooled(self, items: Sequence[Any]) -> np.ndarray:
        return torch_listen.groot_features(self.model, self._observed(items, [""] * len(items)))

    def gates(self) -> dict[str, float]:
        fusion = getattr(self.model, "apt_fusion", None)
        return {} if fusion is None else fusion.openings()

    def attention(self, frames: Sequence[int]) -> dict[str, float] | str:
        found = [self._attention_of(row) for row in frames]
        shares = [each for each in found if each]
        if not shares:
            return "No layer attends to the instruction: the gates are closed, or this is a Stage 1."
        return {layer: float(np.mean([each[layer] for each in shares])) for layer in shares[0]}

    def _attention_of(self, row: int) -> dict[str, float]:
        """One frame by itself: no padding, so that a prompt's tokens stand where they stand."""
        step, text = self.items[row], self.frames.task[row]
        instructed, blank = (self._observed([step], [words]) for words in (text, ""))
        ours = hasattr(self.model, "apt_features")
        context: Any = (torch_listen.AptGrootContext if ours else torch_listen.GrootContext)(self.model, instructed)
        image, valid = context.readable()
        prompt = torch_attention.Prompt.of(image, valid, instructed, blank)
        noise = np.random.default_rng(row).standard_normal((1, 1, *self.frames.actions.shape[1:]))
        with torch_attention.watched_groot(self.model.action_head.model, prompt) as shares:
            context.velocity(noise.astype(np.float32), np.full((1, 1), 0.5, np.float32))
        return dict(shares)

    def evidence(self) -> Gr00tEvidence:
        return Gr00tEvidence(self)

    def digest(self) -> str:
        return vlm_digest(self.model)


def episodes_of(loader: Any) -> Episodes:
    """A data set's episodes with the instruction of each one's first frame, without decoding videos."""
    said = labels(loader, loader.modality_configs["language"].modality_keys[0])
    reach = max(loader.modality_configs["action"].delta_indices)
    length = [int(loader.get_episode_length(episode)) for episode in range(len(loader))]
    room = [max(each - reach, 1) for each in length]  # frames that a whole chunk follows; one at least
    return Episodes(str(loader.dataset_path), said, length, room)


def labels(loader: Any, key: str) -> list[str]:
    """The instruction of each episode's first frame. key: the host's, such as annotation.human.task_description."""

    def label(row: dict[str, Any]) -> str:
        frame = loader._load_parquet_data(row["episode_index"])
        if (column := f"language.{key}") in frame.columns:
            return str(frame[column].iloc[0])
        return str(loader.create_language_from_meta(row, len(frame), key)[0])

    return [label(row) for row in loader.episodes_metadata]


def vlm_digest(model: Any) -> str:
    return torch_params.digest(_vlm(model).items())


def _vlm(model: Any) -> dict[str, Any]:
    return {n: p for n, p in model.named_parameters() if ".backbone." in f".{n}"}


class Gr00tEvidence(HostEvidence):
    """Facts behind one `Gr00tListener`."""

    def tensors(self) -> Iterator[Tensor]:
        return torch_evidence.tensors(self.listener.model, lambda name: ".backbone." in f".{name}")

    def arrived(self, frames: Sequence[int], texts: Sequence[str]) -> list[Arrived]:
        found = []
        for frame, text in zip(frames, texts, strict=True):
            batch = self.listener._observed([self.listener.items[frame]], [text])
            ids = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
            found.append(Arrived(tuple(ids), self.listener.processor.processor.tokenizer.decode(ids)))
        return found

    def state(self) -> np.ndarray:
        steps = [self.listener.items[row] for row in range(len(self.listener.frames))]
        seen = [self.listener._observed([step], [""])["state"] for step in steps]
        return np.concatenate([each.float().reshape(1, -1).cpu().numpy() for each in seen])


def open_listener(
    policy: str,
    dataset: str,
    frames: int = 64,
    seed: int = 0,
    device: str = "",
    config: str = "",
    root: str = "",
    episodes: Sequence[int] | None = None,
) -> Gr00tListener:
    """An Isaac GR00T checkpoint on a data set of its embodiment.

    Args:
        config: the embodiment tag; may be left out where the checkpoint knows one only.
        episodes: on frames of these alone.

    Raises:
        AptError: see `opening`; no frames asked for.
    """
    path = Path(root or dataset)
    check_data(path)
    frames_wanted(frames)
    opened = open_policy(policy, config, device)
    loader = open_data(opened, path)
    logger.info("listen: %s on %s", opened.model.config.model_type, path)
    every = episodes_of(loader)
    chosen = None if episodes is None else every.spread(frames, seed, among=set(episodes))
    return Gr00tListener(opened, loader, frames, seed, chosen, every)


def open_base(path: str, listener: Gr00tListener, device: str = "") -> Beside:
    """The VLM of a base checkpoint beside the listener's.

    Raises:
        AptError: no base of this policy.
    """
    register()
    import gr00t.model  # noqa: F401  # registers the model
    from transformers import AutoModel

    kind = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model: Any = AutoModel.from_pretrained(Path(path)).to(dtype=kind)  # a base may come without a processor
    return Beside(_vlm(listener.model), _vlm(model), path)
