"""The flow-matching model of an APT policy: a host's model with two passes, K draws and gated fusion.

    B batch   K noise draws   T action tokens   S prefix tokens   L text tokens   A action dimensions   D width

Mixed in front of the host's class. Parameters, embeddings, norms and layers are the host's; this file says only how the
two passes are put together and adds `apt_fusion` in Stage 2. A family says what a prefix and a velocity are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor, nn

from apt_plugin.backends.torch_draws import seeded
from apt_plugin.backends.torch_fusion import build_fusion
from apt_plugin.errors import AptError
from apt_plugin.fusion import fusion_sites
from apt_plugin.hosts.lerobot.names import GOAL_MASK, INSTRUCTION_MASK, NATIVE_POSITION
from apt_plugin.stages import LIKELIHOOD, PRIOR

if TYPE_CHECKING:  # a mixin: the host's class stands behind it (PI0Pytorch differs in its state token only)
    from lerobot.policies.pi05.modeling_pi05 import PI05Pytorch as HostFlow
else:
    HostFlow = object


@dataclass(frozen=True)
class PromptBatch:
    """The arranged prompt of a batch (see `apt_plugin.language.Prompt`), each [B, L]."""

    tokens: Tensor
    valid: Tensor
    instruction: Tensor
    native_position: Tensor
    goal: Tensor | None = None

    @classmethod
    def of(cls, batch: dict[str, Tensor]) -> PromptBatch:
        keys = (OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK, INSTRUCTION_MASK, NATIVE_POSITION)
        return cls(*(batch[key] for key in keys), goal=batch.get(GOAL_MASK))

    def told(self, which: Tensor | bool) -> PromptBatch:
        """The same with a goal for `which` samples alone ([B] bool, or all or none of them)."""
        if self.goal is None or which is True:
            return self
        untold = self.goal if which is False else self.goal & ~cast(Tensor, which)[:, None]
        return replace(self, valid=self.valid & ~untold)

    def first(self, count: int) -> PromptBatch:
        """The first `count` text tokens: kept tokens stand first, so this drops instructions or padding."""
        return PromptBatch(**{name: part[:, :count] for name, part in vars(self).items() if part is not None})


@dataclass(frozen=True)
class Observed:
    """A batch as a flow reads it."""

    images: list[Tensor]  # per camera [B, 3, height, width] in [-1, 1]; in a run from a cache what stands there
    masks: list[Tensor]  # per camera [B] bool
    prompt: PromptBatch
    state: Tensor | None  # [B, state dims]
    prefix: Any = None  # where a feature cache has it


@dataclass(frozen=True)
class ExpertShape:
    """What fusion layers must fit."""

    depth: int
    width: int
    heads: int
    head_width: int
    dtype: torch.dtype


class AptFlow(HostFlow):
    """Two passes instead of the host's joint one, in training and in sampling."""

    config: Any

    def __init__(self, config: Any, rtc_processor: Any = None):
        super().__init__(config, rtc_processor=rtc_processor)
        self._leave_out()
        self.apt_stage, self.apt_recipe = config.stage, config.recipe
        self.apt_fusion = None
        if self.apt_stage == LIKELIHOOD:
            shape = self.expert_shape()
            sites = fusion_sites(shape.depth, self.apt_recipe.fusion.every)
            with seeded():
                self.apt_fusion = build_fusion(
                    self.apt_recipe.fusion, sites, shape.width, shape.heads, shape.head_width
                )
            for name, parameter in self.apt_fusion.named_parameters():
                if not name.endswith("gate.w"):  # gates stay float32, see Gate
                    parameter.data = parameter.data.to(shape.dtype)

    # -- what a family says of itself -----------------------------------------------------------------------

    def _leave_out(self) -> None:
        """Put outlines where modules stand that a run from a cache never calls."""

    def expert_shape(self) -> ExpertShape:
        """Of the inherited layers, behind which fusion goes."""
        raise NotImplementedError

    def vlm(self) -> nn.Module:
        """The VLM, whole."""
        raise NotImplementedError

    def prefix(
        self, images: list[Tensor], img_masks: list[Tensor], prompt: PromptBatch, state: Tensor | None = None
    ) -> Any:
        """The prefix pass: what the expert may read, with `blanked()`, the same under an empty instruction.

        Args:
            images: per camera [B, 3, height, width] in [-1, 1]; img_masks: per camera [B] bool.
            prompt: the arranged prompt; state: [B, state dims] where a token of the model's own carries it.
        """
        raise NotImplementedError

    def velocity(
        self, cache: Any, x: Tensor, time: Tensor, state: Tensor | None = None, language: bool = True
    ) -> Tensor:
        """Expert pass: predicted velocity of K draws per sample.

        Args:
            cache: of `prefix`; x: [B, K, T, A] noisy chunks; time: [B, K]; state: as in `prefix`.
            language: False closes every gate: the prior.

        Returns:
            [B, K, T, A] float32
        """
        raise NotImplementedError

    def integration_steps(self) -> int:
        """How many Euler steps an action chunk takes, by the config."""
        return self.config.num_inference_steps

    # -- the prefix ---------------------------------------------------------------------------------------

    def vlm_trains(self) -> bool:
        """Whether any VLM parameter (LoRA included) asks for a gradient; otherwise the prefix records none."""
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.vlm().parameters())

    def _trimmed(self, prompt: PromptBatch) -> PromptBatch:
        """Leave out what nobody reads. Not under torch.compile, which wants one shape for all batches."""
        recipe = self.apt_recipe
        if not recipe.drop_instruction or self.config.compile_model:
            return prompt
        read = prompt.valid
        if self.apt_stage == PRIOR and recipe.prefix == "isolated":
            read = read & ~prompt.instruction
        return prompt.first(int(read.sum(-1).max()))

    # -- training and sampling ----------------------------------------------------------------------------

    def forward(
        self,
        images: list[Tensor],
        img_masks: list[Tensor],
        prompt: PromptBatch,
        actions: Tensor,
        noise: Tensor,
        time: Tensor,
        state: Tensor | None = None,
        blank: bool = False,
        cache: Any = None,
    ) -> dict[str, Tensor]:
        """Squared velocity errors, averaged over the draws.

        Args:
            actions: [B, T, A]; noise: [B, K, T, A]; time: [B, K].
            blank: also return the error under a blanked instruction, without gradient.
            cache: the prefix, where a feature cache has it; images and prompt are not looked at then.

        Returns:
            loss (and prior, blank where asked for): [B, T, A]
        """
        t = time[..., None, None]
        x = t * noise + (1 - t) * actions[:, None]
        target = noise - actions[:, None]
        if cache is None:
            cache = self.prefix(images, img_masks, prompt, state)

        def error(cache: Any, language: bool = True) -> Tensor:
            return (self.velocity(cache, x, time, state, language) - target).square().mean(1)

        out = {"loss": error(cache)}
        if self.apt_stage == LIKELIHOOD:
            if self.apt_recipe.prior_loss > 0:
                out["prior"] = error(cache, language=False)
            if blank:
                with torch.no_grad():
                    out["blank"] = error(self.without_words(cache, images, img_masks, prompt, state))
        return out

    def without_words(
        self, cache: Any, images: list[Tensor], img_masks: list[Tensor], prompt: PromptBatch, state: Tensor | None
    ) -> Any:
        """The cache of the same observation under an empty instruction; free on an isolated prefix."""
        if self.apt_recipe.prefix == "isolated":
            return cache.blanked()
        kept = prompt.valid & ~prompt.instruction
        position = (kept.cumsum(-1) - 1) * kept  # the host's own, had the task text been empty
        blank = PromptBatch(prompt.tokens, kept, prompt.instruction & kept, position)
        return self.prefix(images, img_masks, blank, state)

    @torch.no_grad()
    def sample_actions(
        self,
        images: list[Tensor],
        img_masks: list[Tensor],
        prompt: PromptBatch,
        state: Tensor | None = None,
        noise: Tensor | None = None,
        num_steps: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Integrate from noise to an action chunk [B, T, A] with the host's Euler loop, RTC (guided) included.

        Raises:
            AptError: RTC in a mode that the recipe does not train.
        """
        if self._rtc_enabled() and getattr(self.config.rtc_config, "mode", "guided") == "trained":
            raise AptError("RTC mode 'trained' needs a policy trained with given prefixes; this one takes 'guided'.")
        b, device = prompt.tokens.shape[0], prompt.tokens.device
        if noise is None:
            noise = self.sample_noise((b, self.config.chunk_size, self.config.max_action_dim), device)
        cache = self.prefix(images, img_masks, prompt, state)
        return euler_integrate(
            lambda x, time: self.guided_velocity(cache, x, time, state),
            noise,
            num_steps or self.integration_steps(),
            rtc_processor=self.rtc_processor,
            rtc_enabled=self._rtc_enabled(),
            inference_delay=kwargs.get("inference_delay"),
            prev_chunk_left_over=kwargs.get("prev_chunk_left_over"),
            execution_horizon=kwargs.get("execution_horizon"),
        )

    def guided_velocity(self, cache: Any, x: Tensor, time: Tensor, state: Tensor | None) -> Tensor:
        """v_prior + s (v_language - v_prior) from the one model; s = 1 costs nothing extra. x [B, T, A], time [B]."""
        scale = self.apt_recipe.guidance_scale
        x, time = x[:, None], time[:, None]
        if self.apt_stage == PRIOR or scale == 1:
            return self.velocity(cache, x, time, state)[:, 0]
        prior = self.velocity(cache, x, time, state, language=False)[:, 0]
        if scale == 0:
            return prior
        return prior + scale * (self.velocity(cache, x, time, state)[:, 0] - prior)
