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
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import register
from apt_plugin.hosts.gr00t.opening import Opened, check_data, open_data, open_policy
from apt_plugin.listen.evidence import Arrived, Evidence, Tensor
from apt_plugin.listen.sampling import spread_over_tasks
from apt_plugin.listen.subject import Context, Frames, facts_of
from apt_plugin.stages import LIKELIHOOD

logger = logging.getLogger(__name__)

FIRST_FRAMES = 128  # episodes; each is decoded whole by the host's loader


class Gr00tListener:
    """One model with its own processor, on one data set read by the host's own loader."""

    def __init__(
        self,
        opened: Opened,
        loader: Any,
        count: int = 0,
        seed: int = 0,
        chosen: Sequence[tuple[int, int]] | None = None,
        labels: Sequence[str] | None = None,
    ):
        """
        Args:
            count: frames, spread over the instructions; or `chosen`: these (episode, step), of episodes without
                instruction too.
            labels: the instruction of every episode, where they have been read already.

        Raises:
            AptError: no episode has an instruction, and no frames were chosen.
        """
        self.model, self.processor, self.tag, self.loader = opened.model, opened.processor, opened.tag, loader
        self.modality = loader.modality_configs
        self.steps = int(self.model.action_head.num_inference_timesteps)
        self.gated = getattr(self.model, "apt_stage", None) == LIKELIHOOD
        self._episodes: dict[int, Any] = {}
        self.labels = labels_of(loader) if labels is None else list(labels)
        labelled = [episode for episode, text in enumerate(self.labels) if text.strip()]
        texts = [self.labels[episode] for episode in labelled]
        self.tasks = sorted(set(texts))
        self._first: list[int] = []
        if chosen is None:
            if not labelled:
                raise AptError(f"{loader.dataset_path} has no instruction in any episode: listen needs labelled data.")
            room = room_of(loader)
            picked = spread_over_tasks(texts, np.array([room[e] for e in labelled]), count, seed)
            chosen = [(labelled[k], t) for k, t in picked]
            first = spread_over_tasks(texts, None, min(FIRST_FRAMES, len(texts)), seed)
            self._first = [labelled[k] for k, _ in first]
        self._steps = [self._step(episode, t) for episode, t in chosen]
        self.frames = self._frames(chosen, [self.labels[episode] for episode, _ in chosen])
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

    def _step(self, episode: int, step: int) -> Any:
        from gr00t.data.dataset.sharded_single_step_dataset import extract_step_data

        return extract_step_data(self._episode(episode), step, self.modality, self.tag, allow_padding=True)

    def _inputs(self, steps: Sequence[Any], texts: Sequence[str]) -> dict[str, Any]:
        """Frames under other words, through the host's processor and collator."""
        from gr00t.data.types import MessageType

        made = []
        for step, text in zip(steps, texts, strict=True):
            told = dataclasses.replace(step, text=text)
            made.append(self.processor([{"type": MessageType.EPISODE_STEP.value, "content": told}]))
        return dict(self.processor.collator(made)["inputs"])

    def _frames(self, chosen: Sequence[tuple[int, int]], texts: Sequence[str]) -> Frames:
        batches = [self._inputs([step], [text]) for step, text in zip(self._steps, texts, strict=True)]
        mask = np.stack([batch["action_mask"][0].numpy() > 0 for batch in batches])
        lengths = np.array([self.loader.get_episode_length(episode) for episode, _ in chosen])
        return Frames(
            episode=np.array([episode for episode, _ in chosen]),
            position=np.array([t for _, t in chosen]) / np.maximum(lengths - 1, 1),
            task=tuple(texts),
            actions=np.stack([batch["action"][0].float().numpy() for batch in batches]),
            valid=np.asarray(mask.any(-1)),
            pictures=np.stack([_picture(step) for step in self._steps]),
            width=int(mask.any((0, 1)).sum()),
        )

    # -- what is asked ------------------------------------------------------------------------------------

    def context(self, frames: Sequence[int], texts: Sequence[str]) -> Context:
        steps = [self._steps[f] for f in frames]
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

    def first_frames(self) -> tuple[np.ndarray, list[str]]:
        found = [self._features(self._step(episode, 0)) for episode in self._first]
        return np.concatenate(found), [self.labels[episode] for episode in self._first]

    def features(self, frames: Sequence[int]) -> np.ndarray:
        return np.concatenate([self._features(self._steps[f]) for f in frames])

    def _features(self, step: Any) -> np.ndarray:
        return torch_listen.groot_features(self.model, self._observed([step], [""]))

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
        step, text = self._steps[row], self.frames.task[row]
        told, blank = (self._observed([step], [words]) for words in (text, ""))
        ours = hasattr(self.model, "apt_features")
        context: Any = (torch_listen.AptGrootContext if ours else torch_listen.GrootContext)(self.model, told)
        image, valid = context.readable()
        prompt = torch_attention.Prompt.of(image, valid, told, blank)
        noise = np.random.default_rng(row).standard_normal((1, 1, *self.frames.actions.shape[1:]))
        with torch_attention.watched_groot(self.model.action_head.model, prompt) as shares:
            context.velocity(noise.astype(np.float32), np.full((1, 1), 0.5, np.float32))
        return dict(shares)

    def evidence(self) -> Gr00tEvidence:
        return Gr00tEvidence(self, self.labels)

    def digest(self) -> str:
        return vlm_digest(self.model)


def labels_of(loader: Any) -> list[str]:
    """The instruction of every episode's first frame, "" where it has none, without decoding videos."""
    key = loader.modality_configs["language"].modality_keys[0]

    def label(row: dict[str, Any]) -> str:
        frame = loader._load_parquet_data(row["episode_index"])
        if (column := f"language.{key}") in frame.columns:
            return str(frame[column].iloc[0])
        return str(loader.create_language_from_meta(row, len(frame), key)[0])

    return [label(row) for row in loader.episodes_metadata]


def room_of(loader: Any) -> list[int]:
    """How many frames of every episode a whole chunk follows; one at least."""
    reach = max(loader.modality_configs["action"].delta_indices)
    return [max(loader.get_episode_length(e) - reach, 1) for e in range(len(loader))]


def vlm_digest(model: Any) -> str:
    return torch_params.digest(_vlm(model).items())


def _vlm(model: Any) -> dict[str, Any]:
    return {n: p for n, p in model.named_parameters() if ".backbone." in f".{n}"}


class Gr00tEvidence(Evidence):
    """Facts behind one `Gr00tListener`."""

    def __init__(self, listener: Gr00tListener, labels: Sequence[str]):
        self._listener, self._labels = listener, labels

    def tensors(self) -> Iterator[Tensor]:
        return torch_evidence.tensors(self._listener.model, lambda name: ".backbone." in f".{name}")

    def labels(self) -> Sequence[str]:
        return self._labels

    def arrived(self, frames: Sequence[int], texts: Sequence[str]) -> list[Arrived]:
        found = []
        for frame, text in zip(frames, texts, strict=True):
            batch = self._listener._observed([self._listener._steps[frame]], [text])
            ids = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
            found.append(Arrived(tuple(ids), self._listener.processor.processor.tokenizer.decode(ids)))
        return found

    def state(self) -> np.ndarray:
        steps = [self._listener._steps[row] for row in range(len(self._listener.frames))]
        seen = [self._listener._observed([step], [""])["state"] for step in steps]
        return np.concatenate([each.float().reshape(1, -1).cpu().numpy() for each in seen])

    def read(self, frames: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        contexts: Any = [self._listener.context([f], [t]) for f, t in zip(frames, texts, strict=True)]
        return np.concatenate([one.read() for one in contexts])


def _picture(step: Any) -> np.ndarray:
    frame = np.asarray(next(iter(step.images.values()))[-1])
    return np.ascontiguousarray(frame, dtype=np.uint8)


def open_listener(
    policy: str, dataset: str, frames: int = 64, seed: int = 0, device: str = "", config: str = "", root: str = ""
) -> Gr00tListener:
    """An Isaac GR00T checkpoint on a data set of its embodiment.

    Args:
        config: the embodiment tag; may be left out where the checkpoint knows one only.

    Raises:
        AptError: see `opening`; no frames asked for.
    """
    path = Path(root or dataset)
    check_data(path)
    if frames < 1:
        raise AptError(f"--frames is {frames}; write 1 or more (64 is the default).")
    opened = open_policy(policy, config, device)
    loader = open_data(opened, path)
    logger.info("listen: %s on %s", opened.model.config.model_type, path)
    return Gr00tListener(opened, loader, frames, seed)


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
