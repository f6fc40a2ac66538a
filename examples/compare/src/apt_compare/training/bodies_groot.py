"""GR00T N1.7 as the comparison sees it, stock (`groot`) or gated (`groot_apt`); see `body`.

    B batch   K noise draws   T action tokens   A action dimensions   S prefix tokens   D feature width

GR00T counts time the other way round: our 1 is noise, its 1 is the action chunk, and velocities change sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import ACTION
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature

from apt_compare.training.body import Body
from apt_compare.training.pools import BLOCK, Pool
from apt_plugin.backends.torch_groot import Layout, adapt, adapter_mask, padding_mask
from apt_plugin.backends.torch_groot_dit import Features
from apt_plugin.backends.torch_groot_groups import part_of
from apt_plugin.backends.torch_listen import groot_features
from apt_plugin.stages import PRIOR

SHARED = ("pixel_values", "image_grid_thw", "state", "embodiment_id", ACTION)


@dataclass(frozen=True)
class States:
    """The backbone's output, in front of the adapter, and the robot's state.

    `hidden`: [B, S, D] of the last layer, then of each layer that a fusion taps; `masks`: bool [B, S] each, image and
    attention (stock), or valid, image and scene (gated); `state` [B, 1, dims]; `embodiment` [B].
    """

    hidden: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    state: Tensor
    embodiment: Tensor


@dataclass(frozen=True)
class Ready:
    """Behind the adapter: `features` is `Features` (gated) or [B, S, D] (stock); `state` [B, 1, width]."""

    features: Any
    masks: tuple[Tensor, ...]
    state: Tensor
    embodiment: Tensor


@dataclass(frozen=True)
class StoredStates:
    """`States` of every frame and wording."""

    hidden: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    state: Tensor  # of every frame
    embodiment: Tensor

    def pick(self, place: Tensor) -> States:
        row = place % len(self.state)
        hidden, masks = (tuple(part[place] for part in parts) for parts in (self.hidden, self.masks))
        return States(hidden, masks, self.state[row], self.embodiment[row])


class GrootBody(Body):
    """lerobot's GR00T N1.7."""

    language = ("input_ids", "attention_mask", "mm_token_type_ids")

    def __init__(self, policy: Any, gated: bool):
        self.policy, self.gated = policy, gated
        self.model = policy._groot_model
        self.head = self.model.action_head
        self.fusions = self.model.apt_fusion if gated else None
        self.horizon, self.dims = int(self.head.config.action_horizon), int(self.head.action_dim)
        self.width, self.steps = policy.config.output_features[ACTION].shape[0], int(self.head.num_inference_timesteps)

    def freeze_vlm(self, frozen: bool) -> None:
        self.model.backbone.set_trainable_parameters(tune_llm=not frozen, tune_visual=not frozen, tune_top_llm_layers=0)

    def vlm_trains(self) -> bool:
        return any(p.requires_grad for n, p in self.model.named_parameters() if part_of(n) == "vlm")

    def pack(self, done: dict[str, Any], count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Patches lie flat over the images of a batch; here each frame has its own."""
        shared = {name: done[name] for name in SHARED if name in done}
        shared["pixel_values"] = shared["pixel_values"].reshape(count, -1, shared["pixel_values"].shape[-1])
        return shared, {name: done[name] for name in self.language if name in done}

    def actions(self, batch: dict[str, Tensor]) -> Tensor:
        return batch[ACTION].float()

    def draw(self, *lead: int) -> tuple[Tensor, Tensor]:
        noise = self.noise(*lead)
        time = self.head.sample_time(math.prod(lead), torch.device("cpu"), torch.float32)
        return noise, 1 - time.reshape(lead)

    def noise(self, *lead: int) -> Tensor:
        return torch.randn(*lead, self.horizon, self.dims)

    def prefix(self, batch: dict[str, Tensor]) -> States:
        inputs = dict(batch)
        if inputs["pixel_values"].dim() == 3:
            inputs["pixel_values"] = inputs["pixel_values"].flatten(0, 1)
        told = self.policy._filter_groot_inputs(inputs, include_action=False)
        backbone, action = self.model.prepare_input(told)
        if self.gated:
            hidden, layout = self.model.apt_states(backbone)
            masks = (layout.valid, layout.image, layout.scene)
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.vlm_trains()):
                seen = self.model.backbone(backbone)
            hidden = [seen["backbone_features"]]
            masks = (seen["image_mask"].bool(), seen["backbone_attention_mask"].bool())
        return States(tuple(hidden), masks, action["state"], action["embodiment_id"])

    def features(self, batch: dict[str, Tensor]) -> np.ndarray:
        return groot_features(self.model, self.policy._filter_groot_inputs(dict(batch), include_action=False))

    @torch.no_grad()
    def store(self, pool: Pool) -> StoredStates:
        parts = [
            self.prefix(pool.batch(rows, wording))
            for wording in pool.wordings
            for rows in torch.arange(len(pool)).split(BLOCK)
        ]
        # A gated policy keeps the places that a batch needs, padding behind; masks are False there.
        longest = max(part.masks[0].shape[1] for part in parts)
        hidden = tuple(_joined(each, longest) for each in zip(*(part.hidden for part in parts), strict=True))
        masks = tuple(_joined(each, longest) for each in zip(*(part.masks for part in parts), strict=True))
        return StoredStates(hidden, masks, pool.shared["state"], pool.shared["embodiment_id"])

    def ready(self, states: States) -> Ready:
        """Adapter and state encoder, which train with the head."""
        head = self.head
        head.set_frozen_modules_to_eval_mode()
        if not self.gated:
            seen = BatchFeature(data={"backbone_features": states.hidden[0]})
            made = head._encode_features(seen, BatchFeature(data=vars_of(states)))
            return Ready(made.backbone_features, states.masks, made.state_features, states.embodiment)
        valid, image, scene = states.masks
        layout = Layout(torch.zeros_like(valid, dtype=torch.int64), valid, image, scene)
        mask = adapter_mask(layout) if self.model.apt_recipe.prefix == "isolated" else None
        if mask is None and self.model.apt_stage == PRIOR:
            mask = padding_mask(layout)
        vl = adapt(head.vlln, head.vl_self_attention, states.hidden[0], mask)
        features = Features(vl, layout.image, layout.text, states.hidden[1:] or None)
        return Ready(features, states.masks, self.model.apt_state(states.state, states.embodiment), states.embodiment)

    def velocity(self, ready: Ready, x: Tensor, time: Tensor, language: bool = True) -> Tensor:
        # A bucket's border must not move by the rounding of 1 - (1 - t).
        bucket = ((1 - time) * self.head.num_timestep_buckets + 1e-3).long()
        if self.gated:
            features = ready.features if language else ready.features.prior()
            return -self.model.apt_velocity(features, x, bucket, ready.state, ready.embodiment)
        return -self._stock_velocity(ready, x, bucket)

    def _stock_velocity(self, ready: Ready, x: Tensor, bucket: Tensor) -> Tensor:
        """As the host's head does it, K draws folded into the batch."""
        head, (b, draws, t, _) = self.head, x.shape

        def again(part: Tensor) -> Tensor:
            return part if draws == 1 else part.repeat_interleave(draws, 0)

        who, when = again(ready.embodiment), bucket.flatten()
        tokens = head.action_encoder(x.flatten(0, 1), when, who)
        if head.config.add_pos_embed:
            tokens = tokens + head.position_embedding(torch.arange(t, device=x.device))
        masks = {}
        if head.config.use_alternate_vl_dit:
            image, attention = (again(mask) for mask in ready.masks)
            masks = {"image_mask": image, "backbone_attention_mask": attention}
        out = head.model(
            hidden_states=torch.cat([again(ready.state), tokens], 1), encoder_hidden_states=again(ready.features),
            timestep=when, **masks,
        )  # fmt: skip
        return head.action_decoder(out, who)[:, -t:].unflatten(0, (b, draws))


def _joined(parts: Sequence[Tensor], length: int) -> Tensor:
    """[B, S, ...] each, S grown to `length` with zeros behind -> [sum of B, length, ...]"""
    grown = []
    for part in parts:
        more = part.new_zeros(len(part), length - part.shape[1], *part.shape[2:])
        grown.append(torch.cat([part, more], 1))
    return torch.cat(grown)


def vars_of(states: States) -> dict[str, Tensor]:
    """What the host's `_encode_features` reads of the action inputs."""
    return {"state": states.state, "embodiment_id": states.embodiment}
