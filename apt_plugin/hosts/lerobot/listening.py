"""How `listen` asks a policy of lerobot, stock or ours: velocities, features, attention.

    B (frame, instruction) pairs   T action tokens   A action dimensions   C features

This is the way of a policy with a prefix and a `denoise_step`: π0, π0.5, SmolVLA, and what the recipe made of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS

from apt_plugin.backends import torch_attention, torch_listen
from apt_plugin.backends.torch_guidance import Guidance
from apt_plugin.backends.torch_retained import by_words
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.flow import AptFlow
from apt_plugin.hosts.lerobot.names import INSTRUCTION_MASK, NATIVE_POSITION

STOCK_VLM = ".vlm_with_expert.vlm."  # SmolVLA's, by name


class Listening:
    """One policy at a time."""

    # What of a processed batch changes when its samples get each other's instructions.
    swap = staticmethod(by_words(OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK, INSTRUCTION_MASK, NATIVE_POSITION))

    def flow(self, policy: Any) -> Any:
        """The host's flow model inside the policy."""
        return policy.model

    def steps(self, policy: Any) -> int:
        """Integration steps of an action chunk."""
        return int(getattr(policy.config, "num_inference_steps", 0) or policy.config.num_steps)

    def alone(self, policy: Any) -> bool:
        """Whether pairs must not share a batch."""
        return False

    def chunk(self, policy: Any, batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Demonstrated chunks [B, T, A] as the model is trained on them, and which steps are in the episode [B, T]."""
        actions, pad = policy.prepare_action(batch).float(), batch.get("action_is_pad")
        ok = torch.ones(actions.shape[:2], dtype=torch.bool) if pad is None else ~pad.bool()
        return actions.cpu().numpy(), ok[:, : actions.shape[1]].cpu().numpy()

    def context(self, policy: Any, batch: dict[str, Any]) -> Any:
        """See `torch_listen.TorchContext`.

        Raises:
            AptError: a policy of which nobody knows how it denoises.
        """
        model, device = self.flow(policy), next(policy.parameters()).device
        if isinstance(model, AptFlow):
            with torch.inference_mode():
                seen = policy.observed(batch)
                cache = model.prefix(seen.images, seen.masks, seen.prompt, seen.state)
            return torch_listen.AptPiContext(model, cache, seen.state, device)
        if not hasattr(model, "denoise_step"):
            raise AptError(
                f"listen does not know how {policy.config.type!r} denoises. In lerobot it knows pi0, pi05, smolvla, "
                "groot and the recipe's policies."
            )
        made = torch_listen.DenoiseContext(model, lambda: policy.predict_action_chunk(batch), device)
        made.text_tokens = batch[OBS_LANGUAGE_TOKENS].shape[1]
        return made

    def guide(self, policy: Any, guidance: Guidance) -> tuple[type, str, Callable[[Any], Any]]:
        """Where guidance enters a stock policy: a class, its method, and what is made of that."""
        return type(self.flow(policy)), "denoise_step", guidance.step

    def features(self, policy: Any, batch: dict[str, Any]) -> np.ndarray:
        """What the frozen image tower says, pooled [B, C]: no instruction takes part."""
        prepare = getattr(policy, "_preprocess_images", None) or policy.prepare_images
        images, _ = prepare(batch)
        model = self.flow(policy)
        tower = getattr(model, "paligemma_with_expert", None) or model.vlm_with_expert
        return torch_listen.pooled([tower.embed_image(image) for image in images])

    def watched(self, policy: Any, context: Any, instructed: Any, blank: Any, chunk: int) -> AbstractContextManager:
        """While active, the layers' attention on the instruction is noted: {layer: share}.

        Args:
            instructed, blank: the processed batch of one frame, under its instruction and under none; chunk: T.
        """
        model, keys = self.flow(policy), (OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK)
        if isinstance(context, torch_listen.AptPiContext):
            return torch_attention.watched_fusions(model.apt_fusion, context.cache.spoken)
        here, here_valid, empty, empty_valid = (each[key][0] for each in (instructed, blank) for key in keys)
        spoken = torch_attention.spoken_tokens(here, here_valid, empty, empty_valid)[None]
        count = spoken.shape[1]
        if hasattr(model, "vlm_with_expert"):  # SmolVLA's prefix: images, prompt, one state token
            prefix = context.prefix_tokens
            place = slice(prefix - 1 - count, prefix - 1)
            return torch_attention.watched_smolvla(model.vlm_with_expert, prefix, place, spoken)
        suffix = chunk + ("state" in inspect.signature(model.embed_suffix).parameters)  # π0's token, in front
        expert = model.paligemma_with_expert.gemma_expert.model
        return torch_attention.watched_expert(expert, slice(-suffix - count, -suffix), spoken)
