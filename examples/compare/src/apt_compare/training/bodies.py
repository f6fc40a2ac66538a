"""π0.5 as the comparison sees it, see `body`.

    B batch   K noise draws   T action tokens   A action dimensions   S prefix tokens

Stock and gated policies go through the same two passes (prefix, then expert), which equal the host's joint pass
(tests/test_compare_training.py shows it on losses and on updated parameters); what a frozen VLM says can then be kept.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from lerobot.policies.common.vla_utils import prepare_attention_masks_4d
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor

from apt_compare.training.body import Body
from apt_compare.training.pools import Pool, StoredPrefixes, store
from apt_plugin.backends.torch_listen import pooled
from apt_plugin.backends.torch_pi import PrefixCache, prefix_pass
from apt_plugin.hosts.lerobot.families.pi.flow import run_expert
from apt_plugin.hosts.lerobot.flow import PromptBatch
from apt_plugin.hosts.lerobot.groups import part_of
from apt_plugin.hosts.lerobot.names import GOAL_MASK, INSTRUCTION_MASK, NATIVE_POSITION
from apt_plugin.language import PrefixRules


class PiBody(Body):
    """lerobot's π0.5, stock (`PI05TinyPolicy`) or gated (`pi05_apt`)."""

    language = (OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK, INSTRUCTION_MASK, NATIVE_POSITION, GOAL_MASK)

    def __init__(self, policy: Any, gated: bool):
        self.policy, self.model, self.gated = policy, policy.model, gated
        self.fusions = getattr(policy.model, "apt_fusion", None)
        config = policy.config
        self.horizon, self.dims = config.chunk_size, config.max_action_dim
        self.width, self.steps = config.output_features[ACTION].shape[0], config.num_inference_steps

    def pack(self, done: dict[str, Any], count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the processors made of `count` frames: (tensors that no wording changes, tensors of the wording)."""
        rows = {name: v for name, v in done.items() if isinstance(v, Tensor) and v.dim() and len(v) == count}
        language = {name: v for name, v in rows.items() if name in self.language}
        return {name: v for name, v in rows.items() if name not in language}, language

    def actions(self, batch: dict[str, Tensor]) -> Tensor:
        """Demonstrated chunks [B, T, A], padded as the model pads."""
        return self.policy.prepare_action(batch)

    def draw(self, *lead: int) -> tuple[Tensor, Tensor]:
        """The host's noise [*lead, T, A] and time [*lead], 1 is noise."""
        time = self.model.sample_time(math.prod(lead), "cpu").reshape(lead)
        return self.noise(*lead), time

    def noise(self, *lead: int) -> Tensor:
        return self.model.sample_noise((*lead, self.horizon, self.dims), "cpu")

    def store(self, pool: Pool) -> StoredPrefixes:
        """Every prefix once, with the VLM as it is now."""
        return store(self, pool)

    def freeze_vlm(self, frozen: bool) -> None:
        """Stock only: a gated policy's recipe has decided already."""
        for name, parameter in self.policy.named_parameters():
            if part_of(name) == "vlm":
                parameter.requires_grad_(not frozen)

    def vlm_trains(self) -> bool:
        return any(p.requires_grad for n, p in self.policy.named_parameters() if part_of(n) == "vlm")

    def prefix(self, batch: dict[str, Tensor]) -> PrefixCache:
        images, masks = self.policy._preprocess_images(batch)
        if self.gated:
            return self.model.prefix(images, masks, PromptBatch.of(batch))
        x, valid = self._embedded(images, masks, batch)
        rules = whole_prefix(valid)
        k, v = prefix_pass(self._language(), x, rules)
        return PrefixCache(k, v, rules.kept, torch.zeros_like(valid), rules.suffix_offset)

    def prefix_with_answer(self, batch: dict[str, Tensor]) -> tuple[PrefixCache, Tensor]:
        """Stock: the prefix, and the VLM's last hidden state at the last token of the prompt [B, D], by the host's own
        forward."""
        images, masks = self.policy._preprocess_images(batch)
        x, valid = self._embedded(images, masks, batch)
        rules = whole_prefix(valid)
        self._language().config._attn_implementation = "eager"
        (hidden, _), cache = self.model.paligemma_with_expert.forward(
            attention_mask=prepare_attention_masks_4d(rules.attend), position_ids=rules.position,
            past_key_values=None, inputs_embeds=[x, None], use_cache=True,
        )  # fmt: skip
        k, v = ([getattr(layer, name) for layer in cache.layers] for name in ("keys", "values"))
        last = (valid.long() * torch.arange(valid.shape[1])).argmax(-1)
        spoken = torch.zeros_like(valid)
        return PrefixCache(k, v, rules.kept, spoken, rules.suffix_offset), hidden[torch.arange(len(last)), last]

    @torch.no_grad()
    def features(self, batch: dict[str, Tensor]) -> np.ndarray:
        images, _ = self.policy._preprocess_images(batch)
        return pooled([self.model.paligemma_with_expert.embed_image(image) for image in images])

    def word_logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Through the VLM's own (tied) table: hidden [B, D], ids [M] -> [B, M]."""
        return hidden @ self._language().get_input_embeddings().weight[ids].T

    def velocity(self, prefix: PrefixCache, x: Tensor, time: Tensor, language: bool = True) -> Tensor:
        if self.gated:
            return self.model.velocity(prefix, x, time, language=language)
        return run_expert(self.model, self.model.embed_suffix(x.flatten(0, 1), time.flatten()), x, prefix)

    def _language(self) -> Any:
        return self.model.paligemma_with_expert.paligemma.model.language_model

    def _embedded(self, images: list, masks: list, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x, valid, _ = self.model.embed_prefix(
            images, masks, batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
        )
        return x, valid


def whole_prefix(valid: Tensor) -> PrefixRules:
    """The host's own rules: every valid token reads every other, and the expert reads all of them."""
    return PrefixRules(valid[:, None, :] & valid[:, :, None], valid, valid.cumsum(-1) - 1, valid.sum(-1))
