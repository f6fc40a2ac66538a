"""A whole GR00T N1.7 under the recipe: features once per sample, K draws on them, the host's own sampling loop.

    B batch   K noise draws   T action tokens   S prefix tokens   A action dimensions   D suffix width

`GrootFlow` is mixed in front of the host's model (`Gr00tN1d7`, lerobot's `GR00TN17`). It relies on what both have:
`prepare_input`, `backbone.model` (Qwen3-VL), `action_head` with `model` (AlternateVLDiT), `vlln`, `vl_self_attention`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from apt_plugin import freeze, parts
from apt_plugin.backends import torch_draws
from apt_plugin.backends.torch_fusion import FusionStack
from apt_plugin.backends.torch_groot import Layout, adapt, adapter_mask, arrange, padding_mask, tap_layers, vlm_states
from apt_plugin.backends.torch_groot_dit import AptDiT, Features, build_fusions, sites_of, stage_frozen
from apt_plugin.backends.torch_groot_groups import in_vlm
from apt_plugin.backends.torch_groot_guidance import decoded_twice
from apt_plugin.backends.torch_recompute import recomputed_unless
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD, PRIOR


def apt_class(mixin: type, cls: type) -> type:
    """`cls` with `mixin` in front; the same class for the same pair, so that type comparisons hold."""
    if issubclass(cls, mixin):
        return cls
    return _CLASSES.setdefault((mixin, cls), type(f"Apt{cls.__name__}", (mixin, cls), {"__module__": cls.__module__}))


_CLASSES: dict[tuple[type, type], type] = {}


def check_recipe(recipe: Recipe) -> None:
    """What GR00T cannot do, said before a model is built.

    Raises:
        AptError: with the reason.
    """
    if recipe.prefix == "native" and recipe.fusion.kind != "host":
        raise AptError(
            "prefix=native exists on GR00T for export, which folds the gates of the host's own text blocks: write "
            "fusion.kind=host, or prefix=isolated (the default)."
        )


if TYPE_CHECKING:  # a mixin: the host's model stands behind it
    HostModel = Any
else:
    HostModel = object


class GrootFlow(HostModel):
    """The recipe's forward passes."""

    backbone: Any
    action_head: Any
    apt_recipe: Recipe
    apt_stage: int
    apt_words: int | None = None  # places behind the images, where one layout is wanted (proofs)

    def apt_attach(self, recipe: Recipe, stage: int) -> None:
        """Turn a built host model into one of ours; adds parameters in Stage 2 only.

        Raises:
            AptError: the action transformer has no separate text blocks (use_alternate_vl_dit=False, and all of N1.5).
        """
        check_recipe(recipe)
        dit = self.action_head.model
        if not hasattr(dit, "attend_text_every_n_blocks"):
            raise AptError(
                "This GR00T has a plain DiT, whose blocks ignore masks and read image and text tokens in one softmax: "
                "no block can be closed. The recipe needs use_alternate_vl_dit=true (GR00T N1.7)."
            )
        self.apt_recipe, self.apt_stage = recipe, stage
        dit.__class__ = apt_class(AptDiT, type(dit))
        if stage == LIKELIHOOD:
            tap_layers(recipe.fusion.taps, 1, len(self.apt_layers()))  # refuses a layer that is not there
            with torch_draws.seeded():
                made = build_fusions(dit, recipe.fusion, self.apt_feature_width())
            weight = dit.proj_out_2.weight
            dit.apt_fusion = made.to(weight.device)
            for name, parameter in made.named_parameters():
                if not name.endswith("gate.w"):  # gates stay float32, see Gate
                    parameter.data = parameter.data.to(weight.dtype)

    def apt_feature_width(self) -> int:
        return int(self.apt_layers()[0].input_layernorm.weight.shape[0])

    def apt_layers(self) -> Any:
        """The VLM's kept decoder layers."""
        return self.backbone.model.model.language_model.layers

    @property
    def apt_fusion(self) -> FusionStack | None:
        return getattr(self.action_head.model, "apt_fusion", None)

    # -- what trains --------------------------------------------------------------------------------------

    def apt_set_trainable(self, projector: bool = True, diffusion: bool = True, vlln: bool = True) -> None:
        """Derive requires_grad from (stage, recipe, the host's own flags); nothing is taken from a checkpoint.

        A checkpoint's `tune_top_llm_layers` would train LLM layers under a frozen VLM, and a Stage 2 rebuilt from a
        Stage 1 would keep its text attention frozen.

        Raises:
            AptError: a freeze pattern that matches nothing.
        """
        recipe, two = self.apt_recipe, self.apt_stage == LIKELIHOOD
        full = two and recipe.vlm == "full"
        self.backbone.set_trainable_parameters(tune_llm=full, tune_visual=full, tune_top_llm_layers=0)
        self.action_head.set_trainable_parameters(projector, diffusion, vlln)
        dit = self.action_head.model
        frozen = {f"action_head.model.{name}" for name in stage_frozen(dit, recipe.fusion if two else None)}
        named = dict(self.named_parameters())  # type: ignore[attr-defined]
        frozen |= parts.frozen_names(named, recipe, self.apt_stage, in_vlm)
        for name, parameter in named.items():
            if name in frozen:
                parameter.requires_grad_(False)
            elif freeze.added(name):
                parameter.requires_grad_(True)

    def apt_train_as(self, flags: Any) -> None:
        """`apt_set_trainable` by a host's config."""
        self.apt_set_trainable(flags.tune_projector, flags.tune_diffusion_model, flags.tune_vlln)

    # -- the prefix ---------------------------------------------------------------------------------------

    def apt_places(self) -> int | None:
        """Places for words behind the images, see `torch_groot.arrange`."""
        if self.apt_words is not None:
            return self.apt_words
        return 0 if self.apt_stage == PRIOR and self.apt_recipe.drop_instruction else None

    def apt_layout(self, tokens: Tensor, attention_mask: Tensor) -> Layout:
        image_token = self.backbone.model.config.image_token_id
        if self.apt_recipe.prefix == "isolated":
            return arrange(tokens, attention_mask, image_token, self.apt_places())
        if self.apt_stage == PRIOR:
            # On the host's unmasked adapter a prior is language-free only where no words are: the constant prompt,
            # here and not in the data, so that a server and a host without a blind processor keep to it too.
            return arrange(tokens, attention_mask, image_token, 0)
        valid = attention_mask.bool()  # the host's own order, on which a folded export will run
        image = (tokens == image_token) & valid
        behind = image.flip(-1).cumsum(-1).flip(-1) > 0
        return Layout(tokens, valid, image, behind & valid)

    def apt_taps(self) -> list[int] | None:
        """The VLM layer that each fusion site reads; None where all read the host's own features."""
        fusion = self.apt_recipe.fusion
        if self.apt_stage != LIKELIHOOD or fusion.kind != "interleaved":
            return None
        return tap_layers(fusion.taps, len(sites_of(self.action_head.model, fusion)), len(self.apt_layers()))

    def apt_states(self, inputs: Mapping[str, Any]) -> tuple[list[Tensor], Layout]:
        """Backbone states of the last layer and of each tap, [B, S, D]; the part that a feature cache replaces."""
        self.backbone.set_frozen_modules_to_eval_mode()
        layout = self.apt_layout(inputs["input_ids"], inputs["attention_mask"])
        given = {key: inputs[key] for key in ("pixel_values", "image_grid_thw")}
        given |= {"input_ids": layout.tokens, "attention_mask": layout.valid.long()}
        for name in ("_ensure_mm_token_type_ids", "_ensure_legacy_qwen3_position_ids"):  # lerobot's, transformers 5
            getattr(self.backbone, name, lambda _: None)(given)
        layers = self.apt_layers()
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.backbone.parameters())
        with torch.set_grad_enabled(trains):
            return vlm_states(self.backbone.model, layers, given, [len(layers) - 1, *(self.apt_taps() or [])]), layout

    def apt_features(self, inputs: Mapping[str, Any]) -> tuple[Features, Layout]:
        """Backbone and adapter, once per sample; no gradient is recorded through a frozen backbone."""
        states, layout = self.apt_states(inputs)
        head = self.action_head
        mask = adapter_mask(layout) if self.apt_recipe.prefix == "isolated" else None
        if mask is None and self.apt_stage == PRIOR:
            mask = padding_mask(layout)  # the host's own pass, but for samples with fewer cameras than others
        vl = adapt(head.vlln, head.vl_self_attention, states[0], mask)
        return Features(vl, layout.image, layout.text, tuple(states[1:]) or None), layout

    # -- training -----------------------------------------------------------------------------------------

    def apt_draw(self, actions: Tensor, step: int, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        head = self.action_head

        def sample_time(n: int) -> Tensor:
            return head.sample_time(n, torch.device("cpu"), torch.float32)

        noise, time = torch_draws.draw(sample_time, actions, self.apt_recipe.noise_draws, step, index)
        return noise.to(actions), time.to(actions)

    def apt_errors(
        self, backbone_inputs: Any, action_inputs: Any, noise: Tensor, time: Tensor, blank: bool = False,
        closed: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Squared velocity errors times the action mask, averaged over the draws.

        Args:
            backbone_inputs, action_inputs: what the host's `prepare_input` returns; action [B, T, A].
            noise: [B, K, T, A]; time: [B, K].
            blank: also return the error without the words behind the images, without gradient.
            closed: close every gate: the prior.

        Returns:
            loss (and prior, blank where asked for): [B, T, A]; mask: [B, T, A]
        """
        head, recipe = self.action_head, self.apt_recipe
        head.set_frozen_modules_to_eval_mode()
        actions, embodiment = action_inputs["action"], action_inputs["embodiment_id"]
        mask = action_inputs["action_mask"]
        mask = (mask if mask.dim() == 3 else mask[..., None]).expand_as(actions)
        features, layout = self.apt_features(backbone_inputs)
        state = self.apt_state(action_inputs["state"], embodiment)
        t = time[..., None, None]
        x = (1 - t) * noise + t * actions[:, None]
        target = actions[:, None] - noise
        bucket = (time * head.num_timestep_buckets).long()

        def error(features: Features) -> Tensor:
            velocity = self.apt_velocity(features, x, bucket, state, embodiment)
            return (velocity - target).square().mean(1) * mask

        out = {"loss": error(features.prior() if closed else features), "mask": mask}
        if self.apt_stage == LIKELIHOOD:
            if recipe.prior_loss > 0:
                out["prior"] = error(features.prior())
            if blank and recipe.prefix == "isolated":  # a native prefix has the words in its image tokens too
                with torch.no_grad():
                    out["blank"] = error(replace(features, text=layout.wordless(), kv={}))
        return out

    def apt_state(self, state: Tensor, embodiment: Tensor) -> Tensor:
        """The state token [B, 1, D], with the host's own state dropout in training."""
        head = self.action_head
        if state.shape[1] != head.config.state_history_length:
            raise AptError(f"The batch has {state.shape[1]} state steps, the model {head.config.state_history_length}.")
        out = head.state_encoder(state.reshape(state.shape[0], 1, -1), embodiment)
        if head.training and head.state_dropout_prob > 0:
            keep = torch.rand(out.shape[0], device=out.device) >= head.state_dropout_prob
            out = out * keep[:, None, None].to(out.dtype)
        return out

    def apt_velocity(self, features: Features, x: Tensor, bucket: Tensor, state: Tensor, embodiment: Tensor) -> Tensor:
        """x [B, K, T, A] at discrete times [B, K] -> velocity [B, K, T, A]."""
        head, (b, draws, t, _) = self.action_head, x.shape
        who, when = embodiment.repeat_interleave(draws), bucket.flatten()
        # Both copy their robot's weights for each draw, which the backward pass does again rather than keep them.
        tokens = recomputed_unless(False, head.action_encoder, x.flatten(0, 1), when, who)
        if head.config.add_pos_embed:
            tokens = tokens + head.position_embedding(torch.arange(t, device=x.device))
        suffix = torch.cat([state.repeat_interleave(draws, 0).to(tokens.dtype), tokens], 1)
        out = head.model(suffix, features.vl, when, image_mask=features)
        return recomputed_unless(False, head.action_decoder, out, who)[:, -t:].unflatten(0, (b, draws))

    # -- acting -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def get_action(self, inputs: dict, options: dict[str, Any] | None = None) -> Any:
        """The host's own integration loop (real-time chunking included) on our features."""
        backbone_inputs, action_inputs = self.prepare_input(inputs)  # type: ignore[attr-defined]
        features, _ = self.apt_features(backbone_inputs)
        embodiment = action_inputs["embodiment_id"]
        state = self.apt_state(action_inputs["state"], embodiment)
        scale = self.apt_recipe.guidance_scale
        features = features.prior() if scale == 0 else features
        scale = 1.0 if self.apt_stage == PRIOR or scale == 0 else scale
        with decoded_twice(self.action_head, {"image_mask": features.prior()}, scale):  # a closed gate is the prior
            return self.action_head.get_action_with_features(
                backbone_features=features.vl,
                state_features=state,
                embodiment_id=embodiment,
                backbone_output=SimpleNamespace(image_mask=features, backbone_attention_mask=features.text),
                action_input=action_inputs,
                options=options,
            )
