"""openpi's PyTorch port under the recipe: the rules of model.py on `PI0Pytorch`.

    B batch   K noise draws   T action tokens   S prefix tokens   L text tokens   A action dimensions   D width

Parameters, embeddings, norms and layers are the host's; Stage 2 adds `apt_fusion`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from openpi.models_pytorch import pi0_pytorch
from openpi.models_pytorch import preprocessing_pytorch as _preprocessing
from torch import Tensor

from apt_plugin import parts
from apt_plugin.backends.torch_fusion import build_fusion
from apt_plugin.backends.torch_pi import PrefixCache, Saving, Suffix, expert_pass, prefix_pass
from apt_plugin.errors import AptError
from apt_plugin.fusion import fusion_sites
from apt_plugin.hosts.openpi.prompt import require_marked
from apt_plugin.language import with_images
from apt_plugin.stages import LIKELIHOOD, PRIOR

MARK = "apt_plugin_checkpoint"
UNUSED = "gemma_expert.lm_head."  # the host dropped its embedding, so this head never sees a gradient


def in_vlm(name: str) -> bool:
    """Whether a parameter is the VLM's, by its name in openpi's PyTorch port."""
    return ".paligemma." in f".{name}"


def part_of(name: str) -> str:
    """See `parts.part_of`."""
    return parts.part_of(name, in_vlm)


class AptPI0Pytorch(pi0_pytorch.PI0Pytorch):
    """Two passes instead of the host's joint one, in training and in sampling."""

    def __init__(self, config: Any):
        if config.vlm_mode == "lora":
            raise AptError("openpi's PyTorch port has no LoRA. Write --apt.vlm frozen or full, or train in JAX.")
        super().__init__(config)
        self.apt = config.rules()
        self.apt_fusion = None
        expert = self.paligemma_with_expert.gemma_expert.model
        if self.apt.stage == LIKELIHOOD:
            attn = expert.layers[0].self_attn
            sites = fusion_sites(len(expert.layers), self.apt.fusion.every)
            heads, width = attn.q_proj.out_features // attn.head_dim, attn.q_proj.in_features
            with torch.device("cpu"):  # with values, also where the rest is only outlined (the proofs)
                self.apt_fusion = build_fusion(self.apt.fusion, sites, width, heads, attn.head_dim)
            self._match_expert()
        # The mark of our checkpoints (mark.py): a stock model loads strictly, and refuses by this name.
        self.register_buffer(MARK, torch.tensor([config.apt_stage]))
        self._set_trainable(config)

    def _match_expert(self) -> None:
        """Fusion in the expert's dtype; gates stay float32, see Gate."""
        dtype = self.paligemma_with_expert.gemma_expert.model.layers[0].self_attn.q_proj.weight.dtype
        for name, parameter in self.apt_fusion.named_parameters() if self.apt_fusion is not None else ():
            if not name.endswith("gate.w") and parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)

    def _set_trainable(self, config: Any) -> None:
        """The host's trainer ignores freeze filters; its optimiser skips what has no gradient."""
        named = dict(self.named_parameters())
        frozen = parts.frozen_names(named, config.apt_recipe, self.apt.stage, in_vlm)
        frozen |= {name for name in named if UNUSED in name}
        if config.vlm_mode == "frozen":
            frozen |= {name for name in named if part_of(name) == "vlm"}
        for name in frozen:
            named[name].requires_grad_(False)

    # -- the prefix ---------------------------------------------------------------------------------------

    def apt_prefix(self, obs: Any) -> PrefixCache:
        """The prefix pass on a preprocessed observation."""
        require_marked(obs)
        n = self.apt.kept_tokens  # Stage 1 leaves out what nobody reads; kept tokens stand first
        text = (obs.tokenized_prompt, obs.tokenized_prompt_mask, obs.token_loss_mask, obs.token_ar_mask)
        tokens, text_valid, spoken, native = (part[:, :n] for part in text)
        trains = torch.is_grad_enabled() and self.apt.vlm != "frozen"
        with torch.set_grad_enabled(trains):
            x, valid, _ = self.embed_prefix(
                list(obs.images.values()), list(obs.image_masks.values()), tokens, text_valid
            )
            vlm = self.paligemma_with_expert.paligemma.model.language_model
            x = x.to(vlm.layers[0].self_attn.q_proj.weight.dtype)
            instruction, rules = with_images(valid, spoken, native, self.apt.prefix, torch.cat)
            k, v = prefix_pass(vlm, x, rules, self._saving())
        return PrefixCache(k, v, rules.kept, instruction, rules.suffix_offset)

    def _saving(self) -> Saving:
        on = self.gradient_checkpointing_enabled and self.training and torch.is_grad_enabled()
        return Saving.LAYERS if on else Saving.NOTHING

    # -- the suffix ---------------------------------------------------------------------------------------

    def velocity(self, cache: PrefixCache, state: Tensor, x: Tensor, time: Tensor, language: bool = True) -> Tensor:
        """Expert pass: predicted velocity of K draws per sample.

        Args:
            state: [B, A]; x: [B, K, T, A] noisy chunks; time: [B, K].
            language: False closes every gate: the prior.

        Returns:
            [B, K, T, A] float32
        """
        b, draws, t, _ = x.shape
        repeated = state.repeat_interleave(draws, 0)
        embs, pad, att, cond = self.embed_suffix(repeated, x.flatten(0, 1), time.flatten())
        pwe = self.paligemma_with_expert
        expert, rotary = pwe.gemma_expert.model, pwe.paligemma.model.language_model.rotary_emb
        block = att[:1].cumsum(-1)  # a later block may read an earlier one, every row alike
        attend = (block[:, None, :] <= block[:, :, None]) & pad[:1, None, :]
        length = embs.shape[1]
        suffix = Suffix(
            x=embs.to(expert.layers[0].self_attn.q_proj.weight.dtype),
            cond=cond,
            attend=attend[:, None].expand(b, draws, length, length),
            position=cache.suffix_offset[:, None] + torch.arange(length, device=embs.device),
        )
        out = expert_pass(expert, rotary, suffix, cache, self.apt_fusion if language else None, self._saving())
        return self.action_out_proj(out[:, -t:].float()).unflatten(0, (b, draws))

    # -- training and sampling ----------------------------------------------------------------------------

    def errors(self, obs: Any, actions: Tensor, noise: Tensor, time: Tensor, blank: bool = False) -> dict[str, Tensor]:
        """Squared velocity errors of a preprocessed observation, averaged over the draws: each [B, T, A].

        Args:
            actions: [B, T, A]; noise: [B, K, T, A]; time: [B, K].
        """
        t = time[..., None, None]
        x, target = t * noise + (1 - t) * actions[:, None], noise - actions[:, None]
        cache = self.apt_prefix(obs)

        def error(cache: PrefixCache, language: bool = True) -> Tensor:
            return (self.velocity(cache, obs.state, x, time, language) - target).square().mean(1)

        out = {"loss": error(cache)}
        if self.apt.stage == LIKELIHOOD and self.apt.prior_loss > 0:
            out["prior"] = error(cache, language=False)
        if blank:
            with torch.no_grad():
                out["blank"] = error(self._without_words(cache, obs))
        return out

    def _without_words(self, cache: PrefixCache, obs: Any) -> PrefixCache:
        """The cache of the same observation under an empty instruction; free on an isolated prefix."""
        if self.apt.prefix == "isolated":
            return cache.blanked()
        silent = copy.copy(obs)
        kept = obs.tokenized_prompt_mask & ~obs.token_loss_mask
        silent.tokenized_prompt_mask = kept
        silent.token_ar_mask = (kept.cumsum(-1) - 1) * kept  # the host's own, had the task text been empty
        return self.apt_prefix(silent)

    @torch.no_grad()
    def instruction_gap(self, observation: Any, actions: Tensor) -> Tensor:
        """Loss under a blanked instruction minus the loss under the true one: how much the policy listens. []

        On noise of its own: the training run draws the same numbers with and without it.
        """
        obs = _preprocessing.preprocess_observation_pytorch(observation, train=False)
        b, draws = actions.shape[0], self.apt.noise_draws
        with torch.random.fork_rng():
            noise = self.sample_noise((b, draws, *actions.shape[1:]), actions.device)
            time = self.sample_time(b * draws, actions.device).reshape(b, draws)
        terms = self.errors(obs, actions, noise, time, blank=True)
        return (terms["blank"] - terms["loss"]).mean()

    def forward(
        self, observation: Any, actions: Tensor, noise: Tensor | None = None, time: Tensor | None = None
    ) -> Tensor:
        """Flow-matching loss per action dimension [B, T, A]; the host's trainer averages it."""
        obs = _preprocessing.preprocess_observation_pytorch(observation, train=True)
        b, draws = actions.shape[0], self.apt.noise_draws
        if noise is None:
            noise = self.sample_noise((b, draws, *actions.shape[1:]), actions.device)
        if time is None:
            time = self.sample_time(b * draws, actions.device).reshape(b, draws)
        terms = self.errors(obs, actions, noise, time)
        return terms["loss"] + self.apt.prior_loss * terms["prior"] if "prior" in terms else terms["loss"]

    @torch.no_grad()
    def sample_actions(self, device: Any, observation: Any, noise: Tensor | None = None, num_steps: int = 10) -> Tensor:
        """Integrate from noise (time 1) to an action chunk [B, T, A] (time 0) with Euler steps, as the host does."""
        self._match_expert()  # the host's policy casts the expert behind our back
        b = observation.state.shape[0]
        if noise is None:
            noise = self.sample_noise((b, self.config.action_horizon, self.config.action_dim), device)
        obs = _preprocessing.preprocess_observation_pytorch(observation, train=False)
        cache = self.apt_prefix(obs)
        dt, x = -1.0 / num_steps, noise
        for step in range(num_steps):
            time = torch.full((b,), 1.0 + step * dt, dtype=torch.float32, device=x.device)
            x = x + dt * self.guided_velocity(cache, obs.state, x, time)
        return x

    def guided_velocity(self, cache: PrefixCache, state: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """v_prior + s (v_language - v_prior) from the one model; s = 1 costs nothing. x [B, T, A], time [B]."""
        x, time, scale = x[:, None], time[:, None], self.apt.guidance_scale
        if self.apt.stage == PRIOR or scale == 1:
            return self.velocity(cache, state, x, time)[:, 0]
        prior = self.velocity(cache, state, x, time, language=False)[:, 0]
        if scale == 0:
            return prior
        return prior + scale * (self.velocity(cache, state, x, time)[:, 0] - prior)
