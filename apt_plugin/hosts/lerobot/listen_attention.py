"""Attention on the instruction in lerobot's policies, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS

from apt_plugin.backends import torch_attention, torch_listen

if TYPE_CHECKING:
    from apt_plugin.hosts.lerobot.listen import LerobotListener

NONE = "No layer attends to the instruction: gates that are closed, or the host's own pathway beside them."


def attention_of(listener: LerobotListener, rows: Sequence[int]) -> dict[str, float] | str:
    """Layer -> share of the action tokens' attention on the instruction, mean over the frames."""
    found = [_of_one(listener, row) for row in rows]
    shares = [each for each in found if each]
    return {layer: float(np.mean([each[layer] for each in shares])) for layer in shares[0]} if shares else NONE


def _of_one(listener: LerobotListener, row: int) -> dict[str, float]:
    """One frame by itself: no padding, so that a prompt's tokens stand where they stand."""
    told, blank = (listener.prompts([row], [text]) for text in (listener.frames.task[row], ""))
    context: Any = listener.context([row], [listener.frames.task[row]])
    watched = _groot(listener, context, told, blank) if listener.is_groot() else _pi(listener, context, told, blank)
    noise = np.random.default_rng(row).standard_normal((1, 1, *listener.frames.actions.shape[1:]))
    with watched as shares:
        context.velocity(noise.astype(np.float32), np.full((1, 1), 0.5, np.float32))
    return dict(shares)


def _groot(listener: LerobotListener, context: Any, told: Any, blank: Any) -> Any:
    image, valid = context.readable()
    prompt = torch_attention.Prompt.of(image, valid, told, blank)
    return torch_attention.watched_groot(listener.flow().action_head.model, prompt)


def _pi(listener: LerobotListener, context: Any, told: Any, blank: Any) -> Any:
    model, keys = listener.flow(), (OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK)
    if isinstance(context, torch_listen.AptPiContext):
        return torch_attention.watched_fusions(model.apt_fusion, context.cache.spoken)
    here, here_valid, empty, empty_valid = (each[key][0] for each in (told, blank) for key in keys)
    spoken = torch_attention.spoken_tokens(here, here_valid, empty, empty_valid)[None]
    count = spoken.shape[1]
    if hasattr(model, "vlm_with_expert"):  # SmolVLA's prefix: images, prompt, one state token
        prefix = context.prefix_tokens
        return torch_attention.watched_smolvla(
            model.vlm_with_expert, prefix, slice(prefix - 1 - count, prefix - 1), spoken
        )
    suffix = int(listener.frames.actions.shape[1]) + (listener.config.type == "pi0")  # π0 has a state token in front
    expert = model.paligemma_with_expert.gemma_expert.model
    return torch_attention.watched_expert(expert, slice(-suffix - count, -suffix), spoken)
