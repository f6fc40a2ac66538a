"""What lerobot tells of a policy and its data before any verdict; every policy family alike.

F frames   B (frame, instruction) pairs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE

from apt_plugin.backends import torch_evidence
from apt_plugin.listen.evidence import Arrived, Tensor
from apt_plugin.listen.hosted import HostEvidence

# Where a batch holds its prompt: the π family and SmolVLA, then GR00T's own processor.
PROMPTS = ((OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK), ("input_ids", "attention_mask"))


class LerobotEvidence(HostEvidence):
    """Facts behind one `LerobotListener`."""

    room = "--policy.tokenizer_max_length"

    def __init__(self, listener: Any, vlm: Mapping[str, Any]):
        """`vlm`: the policy's VLM parameters by name."""
        super().__init__(listener)
        self._vlm = vlm

    def tensors(self) -> Iterator[Tensor]:
        def in_vlm(name: str) -> bool:
            return name.replace(".base_layer.", ".") in self._vlm

        return torch_evidence.tensors(self.listener.policy, in_vlm)

    def state(self) -> np.ndarray | None:
        states = []
        for row, text in enumerate(self.listener.frames.task):
            batch = self.listener.prompts([row], [text])
            if OBS_STATE not in batch:
                return None
            states.append(batch[OBS_STATE].float().reshape(1, -1).cpu().numpy())
        return np.concatenate(states)

    def arrived(self, frames: Sequence[int], texts: Sequence[str]) -> list[Arrived] | None:
        found = []
        with own_limits(self.listener.preprocessor) as limit:
            for frame, text in zip(frames, texts, strict=True):
                batch = self.listener.prompts([frame], [text])
                keys = next((pair for pair in PROMPTS if pair[0] in batch), None)
                if keys is None:
                    return None
                ids = batch[keys[0]][0][batch[keys[1]][0].bool()].tolist()
                found.append(Arrived(tuple(ids), self._decoded(ids), limit))
        return found

    def _decoded(self, ids: Sequence[int]) -> str:
        tokenizer = tokenizer_of(self.listener.preprocessor)
        return "" if tokenizer is None else str(tokenizer.decode(ids))


def tokenizer_of(preprocessor: Any) -> Any:
    """The tokenizer of whichever step writes the prompt; None where no step has one."""
    for step in preprocessor.steps:
        for name in ("input_tokenizer", "_tokenizer", "tokenizer", "_proc", "processor"):
            held = getattr(step, name, None)
            held = getattr(held, "tokenizer", held)
            if hasattr(held, "decode"):
                return held
    return None


@contextmanager
def own_limits(preprocessor: Any) -> Iterator[int | None]:
    """The limits that the policy was trained with, for the time of the block: `opening.make_room` raised them. Gives
    the smallest of them."""
    steps = [step for step in preprocessor.steps if isinstance(getattr(step, "max_length", None), int)]
    raised = [step.max_length for step in steps]
    for step in steps:
        step.max_length = getattr(step, "apt_own_length", step.max_length)
    try:
        yield min((step.max_length for step in steps), default=None)
    finally:
        for step, length in zip(steps, raised, strict=True):
            step.max_length = length
