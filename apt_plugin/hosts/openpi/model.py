"""openpi's π0 / π0.5 (JAX) under the recipe: two passes, K draws, gated fusion in Stage 2.

    B batch   K noise draws   T action tokens   S prefix tokens   L text tokens   A action dimensions   D width
    P = B*K

Parameters and embeddings are the host's, and its tree is untouched; Stage 2 adds `apt_fusion` at the top.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from openpi.models import gemma
from openpi.models import model as _model
from openpi.models.pi0 import Pi0

from apt_plugin.backends import jax_fusion
from apt_plugin.backends.jax_pi import PrefixCache, Suffix, expert_pass, prefix_pass
from apt_plugin.fusion import fusion_sites
from apt_plugin.hosts.openpi import cached
from apt_plugin.hosts.openpi.layers import GemmaStream
from apt_plugin.hosts.openpi.prompt import require_marked
from apt_plugin.language import with_images
from apt_plugin.recipe import Fusion
from apt_plugin.stages import LIKELIHOOD, PRIOR


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the model needs of recipe and stage. Hashable: nnx keeps it as a static attribute, jit compares it."""

    stage: int
    prefix: str
    kept_tokens: int | None  # Stage 1 leaves out the text behind so many tokens; None keeps one layout
    noise_draws: int
    prior_loss: float
    guidance_scale: float
    fusion: Fusion
    vlm: str  # frozen | lora | full


def as_params(tree: Any) -> Any:
    """Nested dict of arrays -> nnx.Dict of nnx.Param, so that paths read apt_fusion/gate/w."""
    if isinstance(tree, dict):
        return nnx.Dict({name: as_params(value) for name, value in tree.items()})
    return nnx.Param(tree)


def _ready(rng: Array | None, obs: _model.Observation, train: bool) -> _model.Observation:
    """The host's preprocessing; what a cache gives has been through it."""
    return obs if cached.stored(obs) is not None else _model.preprocess_observation(rng, obs, train=train)


class AptPi0(Pi0):
    """Trained by the host's train_step and sampled by its Policy: same methods, same arguments."""

    def __init__(self, config: Any, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.apt = config.rules()
        self.apt_variants = (config.paligemma_variant, config.action_expert_variant)
        self.apt_dtype = config.dtype
        if self.apt.stage == LIKELIHOOD:
            expert = gemma.get_config(config.action_expert_variant)
            sites = fusion_sites(expert.depth, self.apt.fusion.every)
            _, params = jax_fusion.build_fusion(
                rngs.params(), self.apt.fusion, sites, expert.width, expert.num_heads, expert.head_dim
            )
            self.apt_fusion = as_params(params)

    # -- the prefix ---------------------------------------------------------------------------------------

    def _streams(self) -> tuple[GemmaStream, GemmaStream]:
        vlm, expert = (GemmaStream(gemma.get_config(name), i) for i, name in enumerate(self.apt_variants))
        return vlm, expert

    def _llm(self) -> Any:
        return nnx.state(self.PaliGemma.llm, nnx.Param).to_pure_dict()

    def apt_prefix(self, obs: _model.Observation) -> PrefixCache:
        """The prefix pass on a preprocessed observation; from a cache of keys and values, no pass at all."""
        fields = cached.stored(obs)
        if fields is not None and "k" in fields:
            return cached.prefix_of(fields)
        obs = self._trimmed(obs)
        x, valid, _ = self.embed_prefix(obs)
        if self.apt.vlm == "frozen":
            x = jax.lax.stop_gradient(x)
        instruction, rules = with_images(
            valid, obs.token_loss_mask, obs.token_ar_mask, self.apt.prefix, jnp.concatenate
        )
        stream = self._streams()[0]
        layers = stream.own(self._llm()["layers"])
        k, v = prefix_pass(stream, layers, x.astype(self.apt_dtype), rules, trains=self.apt.vlm != "frozen")
        return PrefixCache(k, v, rules.kept, instruction, rules.suffix_offset)

    def embed_prefix(self, obs: _model.Observation) -> tuple[Array, Array, Array]:
        """The host's, with cached image tokens in the images' place where there are some."""
        fields = cached.stored(obs)
        if fields is None:
            return super().embed_prefix(obs)
        words, valid, _ = super().embed_prefix(dataclasses.replace(obs, images={}, apt_cache=None))
        tokens, there = cached.image_tokens(fields, obs.image_masks)
        valid = jnp.concatenate([there, valid], 1)
        return jnp.concatenate([tokens, words], 1), valid, jnp.zeros(valid.shape[1], jnp.bool_)

    def _trimmed(self, obs: _model.Observation) -> _model.Observation:
        """Stage 1 leaves out what nobody reads: kept tokens stand first, and there is a bound on their number."""
        require_marked(obs)
        n = self.apt.kept_tokens
        if n is None:
            return obs
        text = ("tokenized_prompt", "tokenized_prompt_mask", "token_ar_mask", "token_loss_mask")
        return dataclasses.replace(obs, **{name: getattr(obs, name)[:, :n] for name in text})

    # -- the suffix ---------------------------------------------------------------------------------------

    def velocity(self, cache: PrefixCache, state: Array, x: Array, time: Array, language: bool = True) -> Array:
        """Expert pass: predicted velocity of K draws per sample.

        Args:
            state: [B, A]; x: [B, K, T, A] noisy chunks; time: [B, K].
            language: False closes every gate: the prior.

        Returns:
            [B, K, T, A]
        """
        b, draws, t, _ = x.shape
        # The host's embedding wants an Observation; the suffix reads the state alone.
        obs = _model.Observation(images={}, image_masks={}, state=jnp.repeat(state, draws, 0))
        tokens, _, ar_mask, cond = self.embed_suffix(obs, x.reshape(b * draws, *x.shape[2:]), time.reshape(-1))
        block = jnp.cumsum(ar_mask)  # a later block may read an earlier one (openpi's make_attn_mask)
        suffix = Suffix(
            x=tokens.astype(self.apt_dtype),
            cond=cond,
            attend=block[None, :] <= block[:, None],
            position=cache.suffix_offset[:, None] + jnp.arange(tokens.shape[1]),
        )
        _, stream = self._streams()
        llm = self._llm()
        fusion, params = self._fusion() if language and self.apt.stage == LIKELIHOOD else (None, None)
        out = expert_pass(stream, stream.own(llm["layers"]), suffix, cache, fusion, params)
        out = stream.final_norm(llm, out, cond)
        return self.action_out_proj(out[:, -t:]).reshape(x.shape)

    def _fusion(self) -> tuple[Any, Any]:
        expert = self._streams()[1].config
        sites = fusion_sites(expert.depth, self.apt.fusion.every)
        layer = jax_fusion.FUSIONS[self.apt.fusion.kind](
            self.apt.fusion, expert.width, expert.num_heads, expert.head_dim
        )
        return layer, jax_fusion.spread(nnx.state(self.apt_fusion, nnx.Param).to_pure_dict(), sites, expert.depth)

    # -- training -----------------------------------------------------------------------------------------

    def draw(self, rng: Array, actions: Array, draws: int) -> tuple[Array, Array]:
        """The host's noise and time distributions: noise [B, K, T, A], time [B, K]."""
        noise_rng, time_rng = jax.random.split(rng)
        b = actions.shape[0]
        noise = jax.random.normal(noise_rng, (b, draws, *actions.shape[1:]))
        return noise, jax.random.beta(time_rng, 1.5, 1, (b, draws)) * 0.999 + 0.001

    def errors(
        self, obs: _model.Observation, actions: Array, noise: Array, time: Array, blank: bool = False
    ) -> dict[str, Array]:
        """Squared velocity errors of a preprocessed observation, averaged over draws and action dimensions.

        Args:
            actions: [B, T, A]; noise: [B, K, T, A]; time: [B, K].
            blank: the error under a blanked instruction too.

        Returns:
            loss (and prior, blank where asked for): [B, T]
        """
        t = time[..., None, None]
        x = t * noise + (1 - t) * actions[:, None]
        target = noise - actions[:, None]
        cache = self.apt_prefix(obs)

        def error(cache: PrefixCache, language: bool = True) -> Array:
            return jnp.square(self.velocity(cache, obs.state, x, time, language) - target).mean((1, 3))

        out = {"loss": error(cache)}
        if self.apt.stage == LIKELIHOOD and self.apt.prior_loss > 0:
            out["prior"] = error(cache, language=False)
        if blank:
            out["blank"] = error(self._without_words(cache, obs))
        return out

    def _without_words(self, cache: PrefixCache, obs: _model.Observation) -> PrefixCache:
        """The cache of the same observation under an empty instruction; free on an isolated prefix."""
        if self.apt.prefix == "isolated":
            return cache.blanked()
        kept = obs.tokenized_prompt_mask & ~obs.token_loss_mask
        position = (jnp.cumsum(kept, -1) - 1) * kept  # the host's own, had the task text been empty
        return self.apt_prefix(dataclasses.replace(obs, tokenized_prompt_mask=kept, token_ar_mask=position))

    def compute_loss(
        self, rng: Array, observation: _model.Observation, actions: Array, *, train: bool = False
    ) -> Array:
        """Flow-matching loss over K draws per prefix pass, [B, T]; the host averages it."""
        preprocess_rng, draw_rng = jax.random.split(rng)
        obs = _ready(preprocess_rng, observation, train)
        noise, time = self.draw(draw_rng, actions, self.apt.noise_draws)
        terms = self.errors(obs, actions, noise, time)
        if "prior" in terms:
            return terms["loss"] + self.apt.prior_loss * terms["prior"]
        return terms["loss"]

    def instruction_gap(self, rng: Array, observation: _model.Observation, actions: Array) -> Array:
        """Loss under a blanked instruction minus the loss under the true one: how much the policy listens. []"""
        obs = _ready(None, observation, False)
        noise, time = self.draw(rng, actions, self.apt.noise_draws)
        terms = jax.lax.stop_gradient(self.errors(obs, actions, noise, time, blank=True))
        return (terms["blank"] - terms["loss"]).mean()

    # -- acting -------------------------------------------------------------------------------------------

    def guided_velocity(self, cache: PrefixCache, state: Array, x: Array, time: Array) -> Array:
        """v_prior + s (v_language - v_prior) from the one model; s = 1 costs nothing. x [B, T, A], time [B]."""
        x, time, scale = x[:, None], time[:, None], self.apt.guidance_scale
        if self.apt.stage == PRIOR or scale == 1:
            return self.velocity(cache, state, x, time)[:, 0]
        prior = self.velocity(cache, state, x, time, language=False)[:, 0]
        if scale == 0:
            return prior
        return prior + scale * (self.velocity(cache, state, x, time)[:, 0] - prior)

    def sample_actions(
        self,
        rng: Array,
        observation: _model.Observation,
        *,
        num_steps: int | Array = 10,
        noise: Array | None = None,
    ) -> Array:
        """Integrate from noise (time 1) to an action chunk (time 0) with Euler steps, [B, T, A]."""
        obs = _model.preprocess_observation(None, observation, train=False)
        b = obs.state.shape[0]
        if noise is None:
            noise = jax.random.normal(rng, (b, self.action_horizon, self.action_dim))
        dt = -1.0 / num_steps
        cache = self.apt_prefix(obs)

        def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            x, time = carry
            return x + dt * self.guided_velocity(cache, obs.state, x, jnp.broadcast_to(time, b)), time + dt

        # Half a step of slack, as in the host: the sum of rounded steps may end beside zero.
        return jax.lax.while_loop(lambda carry: carry[1] >= -dt / 2, step, (noise, jnp.float32(1.0)))[0]
