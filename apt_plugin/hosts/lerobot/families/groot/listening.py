"""How `listen` asks a GR00T of lerobot, stock or ours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from apt_plugin.backends import torch_attention, torch_listen
from apt_plugin.backends.torch_guidance import Guidance
from apt_plugin.backends.torch_retained import by_rows
from apt_plugin.hosts.lerobot.listening import Listening


class GrootListening(Listening):
    """See `Listening`."""

    swap = staticmethod(by_rows("input_ids", "attention_mask", "mm_token_type_ids"))

    def flow(self, policy: Any) -> Any:
        return policy._groot_model

    def steps(self, policy: Any) -> int:
        return int(self.flow(policy).action_head.num_inference_timesteps)

    def _ours(self, policy: Any) -> bool:
        return hasattr(self.flow(policy), "apt_features")

    def alone(self, policy: Any) -> bool:
        return not self._ours(policy)

    def chunk(self, policy: Any, batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        inputs = policy._filter_groot_inputs(batch, include_action=True)
        actions, mask = inputs["action"].float(), inputs["action_mask"].bool()
        ok = mask.any(-1) if mask.dim() == 3 else mask
        return actions.cpu().numpy(), ok[:, : actions.shape[1]].cpu().numpy()

    def context(self, policy: Any, batch: dict[str, Any]) -> Any:
        inputs = policy._filter_groot_inputs(batch, include_action=False)
        made = torch_listen.AptGrootContext if self._ours(policy) else torch_listen.GrootContext
        return made(self.flow(policy), inputs, bool(policy.config.use_bf16))

    def guide(self, policy: Any, guidance: Guidance) -> tuple[type, str, Callable[[Any], Any]]:
        return type(self.flow(policy)), "get_action", guidance.chunk

    def features(self, policy: Any, batch: dict[str, Any]) -> np.ndarray:
        inputs = policy._filter_groot_inputs(batch, include_action=False)
        return torch_listen.groot_features(self.flow(policy), inputs, bool(policy.config.use_bf16))

    def watched(self, policy: Any, context: Any, instructed: Any, blank: Any, chunk: int) -> AbstractContextManager:
        image, valid = context.readable()
        prompt = torch_attention.Prompt.of(image, valid, instructed, blank)
        return torch_attention.watched_groot(self.flow(policy).action_head.model, prompt)
