"""The two passes of lerobot's SmolVLA.

B batch   K noise draws   T action tokens   A action dimensions
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from apt_plugin.backends.torch_pi import PrefixCache
from apt_plugin.backends.torch_smolvla import expert_pass, prefix_pass, with_state
from apt_plugin.hosts.lerobot.families.smolvla.absent import take_out
from apt_plugin.hosts.lerobot.flow import AptFlow, ExpertShape, PromptBatch
from apt_plugin.language import with_images


class SmolVLAFlow(AptFlow):
    """Mixed in front of VLAFlowMatching."""

    vlm_with_expert: Any
    embed_prefix: Any
    embed_suffix: Any
    state_proj: Any
    action_out_proj: Any

    def _leave_out(self) -> None:
        self.prefix_length = -1  # the host's padding behind the state, which nobody reads
        take_out(self)

    def vlm(self) -> nn.Module:
        return self.vlm_with_expert.vlm

    def expert_shape(self) -> ExpertShape:
        vwe = self.vlm_with_expert
        q = vwe.lm_expert.layers[0].self_attn.q_proj
        return ExpertShape(
            len(vwe.lm_expert.layers), q.in_features, vwe.num_attention_heads, self._head_width(), q.weight.dtype
        )

    def _head_width(self) -> int:
        return self.vlm_with_expert.vlm.config.text_config.head_dim

    def integration_steps(self) -> int:
        return self.config.num_steps

    def prefix(
        self, images: list[Tensor], img_masks: list[Tensor], prompt: PromptBatch, state: Tensor | None = None
    ) -> PrefixCache:
        text_model = self.vlm_with_expert.get_vlm_model().text_model
        with torch.set_grad_enabled(self.vlm_trains()):
            prompt = self._trimmed(prompt)
            x, valid, _ = self.embed_prefix(images, img_masks, prompt.tokens, prompt.valid, state=state)
            x, valid = x[:, :-1], valid[:, :-1]  # the state stands last, and has a pass of its own
            spoken, rules = with_images(
                valid, prompt.instruction, prompt.native_position, self.apt_recipe.prefix, torch.cat
            )
            k, v = prefix_pass(text_model, x, rules, self._head_width())
        cache = PrefixCache(k, v, rules.kept, spoken, rules.suffix_offset)
        reads = rules.kept if self.apt_recipe.prefix == "isolated" else valid
        return with_state(text_model, self.state_proj(state)[:, None], reads, cache)

    def velocity(
        self, cache: PrefixCache, x: Tensor, time: Tensor, state: Tensor | None = None, language: bool = True
    ) -> Tensor:
        b, draws, t, _ = x.shape
        vwe = self.vlm_with_expert
        embedded, _, _ = self.embed_suffix(x.flatten(0, 1), time.flatten())
        layers = len(vwe.lm_expert.layers)
        depth = [index * (vwe.num_vlm_layers // layers) for index in range(layers)]
        every = vwe.self_attn_every_n_layers
        cross = ["cross" in vwe.attention_mode and not (every > 0 and d % every == 0) for d in depth]
        fusions = self.apt_fusion if language else None
        out = expert_pass(vwe.lm_expert, embedded, draws, cache, cross, depth, fusions)
        out = out[:, -t:].to(self.action_out_proj.weight.dtype)
        return self.action_out_proj(out).float().unflatten(0, (b, draws))
