"""The two passes of lerobot's π0 / π0.5.

B batch   K noise draws   T action tokens   S prefix tokens   A action dimensions
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from apt_plugin.backends.torch_pi import PrefixCache, Saving, Suffix, expert_pass, prefix_pass
from apt_plugin.hosts.lerobot.families.pi.absent import take_out
from apt_plugin.hosts.lerobot.flow import AptFlow, ExpertShape, PromptBatch
from apt_plugin.language import with_images


def run_expert(
    model: Any, embedded: tuple, x: Tensor, cache: PrefixCache, fusions: Any = None, saving: Saving = Saving.NOTHING
) -> Tensor:
    """Predicted velocity of K draws per sample by a host's flow model, ours or a stock one.

    Args:
        embedded: what the host's `embed_suffix` makes of the draws; x: the noisy chunks themselves [B, K, T, A].

    Returns:
        [B, K, T, A] float32
    """
    b, draws, t, _ = x.shape
    embs, pad, att, cond = embedded
    pwe = model.paligemma_with_expert
    expert, rotary = pwe.gemma_expert.model, pwe.paligemma.model.language_model.rotary_emb
    # A later block may read an earlier one (openpi's make_attn_mask), every row alike.
    block = att[:1].cumsum(-1)
    attend = (block[:, None, :] <= block[:, :, None]) & pad[:1, None, :].bool()
    length = embs.shape[1]
    offsets = torch.arange(length, device=embs.device)
    suffix = Suffix(
        x=embs.to(expert.layers[0].self_attn.q_proj.weight.dtype),
        cond=cond,
        attend=attend[:, None].expand(b, draws, length, length),
        position=cache.suffix_offset[:, None] + offsets,
    )
    out = expert_pass(expert, rotary, suffix, cache, fusions, saving)
    out = out[:, -t:].to(model.action_out_proj.weight.dtype)
    return model.action_out_proj(out).float().unflatten(0, (b, draws))


class PiFlow(AptFlow):
    """Mixed in front of PI05Pytorch / PI0Pytorch."""

    paligemma_with_expert: Any
    embed_prefix: Any
    embed_suffix: Any
    gradient_checkpointing_enabled: bool

    def _leave_out(self) -> None:
        take_out(self)

    def vlm(self) -> nn.Module:
        return self.paligemma_with_expert.paligemma

    def expert_shape(self) -> ExpertShape:
        expert = self.paligemma_with_expert.gemma_expert.model
        attn = expert.layers[0].self_attn
        heads, width = attn.q_proj.out_features // attn.head_dim, expert.layers[0].mlp.up_proj.in_features
        return ExpertShape(len(expert.layers), width, heads, attn.head_dim, attn.q_proj.weight.dtype)

    def _saving(self) -> Saving:
        if not (self.training and torch.is_grad_enabled()):
            return Saving.NOTHING
        if self.gradient_checkpointing_enabled:
            return Saving.LAYERS
        # Under a frozen VLM a step keeps less than the host's own anyway, and pays no FLOPs for it
        return Saving.WEIGHTS if self.vlm_trains() else Saving.NOTHING

    def prefix(
        self, images: list[Tensor], img_masks: list[Tensor], prompt: PromptBatch, state: Tensor | None = None
    ) -> PrefixCache:
        with torch.set_grad_enabled(self.vlm_trains()):
            prompt = self._trimmed(prompt)
            x, valid, _ = self.embed_prefix(images, img_masks, prompt.tokens, prompt.valid)
            vlm = self.paligemma_with_expert.paligemma.model.language_model
            x = x.to(vlm.layers[0].self_attn.q_proj.weight.dtype)
            spoken, rules = with_images(
                valid, prompt.instruction, prompt.native_position, self.apt_recipe.prefix, torch.cat
            )
            k, v = prefix_pass(vlm, x, rules, self._saving())
        return PrefixCache(k, v, rules.kept, spoken, rules.suffix_offset)

    def embed_draws(self, x: Tensor, time: Tensor, state: Tensor | None) -> tuple:
        """The host's suffix embedding; π0's puts a state token in front (overridden there)."""
        return self.embed_suffix(x, time)

    def velocity(
        self, cache: PrefixCache, x: Tensor, time: Tensor, state: Tensor | None = None, language: bool = True
    ) -> Tensor:
        repeated = None if state is None else state.repeat_interleave(x.shape[1], 0)
        embedded = self.embed_draws(x.flatten(0, 1), time.flatten(), repeated)
        return run_expert(self, embedded, x, cache, self.apt_fusion if language else None, self._saving())
