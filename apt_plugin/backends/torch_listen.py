"""`listen`'s contexts for torch policies: the prefix of a batch once, velocities of many draws on it.

    B (frame, instruction) pairs   D draws   T action tokens   A action dimensions   S prefix tokens   C features

Stock models are asked through their own functions: nothing of them is rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apt_plugin.backends.torch_evidence import pooled_features, pooled_values, values_of
from apt_plugin.backends.torch_first_call import first_call


class TorchContext:
    """numpy in, numpy out; a subclass says what a velocity is."""

    def __init__(self, device: torch.device, autocast: bool = False):
        self.device, self.autocast = device, autocast

    def compute(self, x: Tensor, time: Tensor, language: bool) -> Tensor:
        raise NotImplementedError

    def read(self) -> np.ndarray:
        """What the action expert reads of the prefixes, pooled over valid tokens: float32 [B, C]."""
        raise NotImplementedError

    @torch.inference_mode()
    def velocity(self, x: np.ndarray, time: np.ndarray, language: bool = True) -> np.ndarray:
        noisy, now = (torch.from_numpy(np.ascontiguousarray(part)).to(self.device) for part in (x, time))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.compute(noisy, now, language).float().cpu().numpy()


class DenoiseContext(TorchContext):
    """A stock π-style model (π0, π0.5, SmolVLA): its own `denoise_step` on the prefix its own sampler computed.

    Draws go through one after the other, so they share the prefix cache as it is.
    """

    text_tokens = 0  # of the prompt, in the prefix

    def __init__(self, model: Any, sample: Callable[[], Any], device: torch.device):
        super().__init__(device)
        self._step = model.denoise_step
        self._arguments = first_call(model, "denoise_step", sample)

    @property
    def prefix_tokens(self) -> int:
        return int(self._arguments["prefix_pad_masks"].shape[1])

    def read(self) -> np.ndarray:
        return pooled_values(values_of(self._arguments["past_key_values"]), self._arguments["prefix_pad_masks"])

    def compute(self, x: Tensor, time: Tensor, language: bool) -> Tensor:
        now = self._arguments["timestep"].dtype
        draws = [
            self._step(**{**self._arguments, "x_t": x[:, d], "timestep": time[:, d].to(now)}) for d in range(x.shape[1])
        ]
        return torch.stack(draws, 1)


class AptPiContext(TorchContext):
    """A π policy of ours: `AptFlow.prefix`, then `AptFlow.velocity` with gates open or closed."""

    def __init__(self, model: Any, cache: Any, state: Tensor | None, device: torch.device):
        super().__init__(device)
        self.model, self.cache, self.state = model, cache, state

    def compute(self, x: Tensor, time: Tensor, language: bool) -> Tensor:
        return self.model.velocity(self.cache, x, time, self.state, language)

    def read(self) -> np.ndarray:
        return pooled_values(self.cache.v, self.cache.kept | self.cache.spoken)


class GrootContext(TorchContext):
    """A stock GR00T: backbone and adapter once, then its own encoder, transformer and decoder per draw.

    GR00T's time runs from noise at 0 to actions at 1, in buckets; ours runs the other way.
    """

    def __init__(self, model: Any, inputs: Any, autocast: bool = False):
        super().__init__(model.device, autocast)
        self.head = model.action_head
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            backbone, self.inputs = model.prepare_input(inputs)
            self.seen = model.backbone(backbone)
            features = self.head._encode_features(self.seen, self.inputs)
            self.vl, self.state = features.backbone_features, features.state_features

    def readable(self) -> tuple[Tensor, Tensor]:
        """Image tokens and valid tokens, each [B, S] bool."""
        return self.seen["image_mask"].bool(), self.seen["backbone_attention_mask"].bool()

    def read(self) -> np.ndarray:
        return pooled_features(self.seen["backbone_features"], self.readable()[1])

    def compute(self, x: Tensor, time: Tensor, language: bool) -> Tensor:
        draws, bucket = x.shape[1], bucket_of(self.head, time)
        every = [self._decode(x[:, d], bucket[:, d]) for d in range(draws)]
        return -torch.stack(every, 1)

    def _decode(self, x: Tensor, bucket: Tensor) -> Tensor:
        head, who = self.head, self.inputs["embodiment_id"]
        tokens = head.action_encoder(x.to(self.vl.dtype), bucket, who)
        if head.config.add_pos_embed:
            tokens = tokens + head.position_embedding(torch.arange(x.shape[1], device=x.device))
        masks = {}
        if head.config.use_alternate_vl_dit:
            masks = {
                "image_mask": self.seen["image_mask"],
                "backbone_attention_mask": self.seen["backbone_attention_mask"],
            }
        out = head.model(
            hidden_states=torch.cat([self.state, tokens], 1), encoder_hidden_states=self.vl, timestep=bucket, **masks
        )
        return head.action_decoder(out, who)[:, -x.shape[1] :]


class OneByOne:
    """Pairs that must not share a batch. A stock GR00T's adapter attends to padding, so features of a short prompt
    change beside a longer one: words would leak between pairs."""

    def __init__(self, contexts: Sequence[TorchContext]):
        self._contexts = contexts

    def velocity(self, x: np.ndarray, time: np.ndarray, language: bool = True) -> np.ndarray:
        parts = [one.velocity(x[i : i + 1], time[i : i + 1], language) for i, one in enumerate(self._contexts)]
        return np.concatenate(parts)

    def read(self) -> np.ndarray:
        return np.concatenate([one.read() for one in self._contexts])


class AptGrootContext(TorchContext):
    """A GR00T of ours: `apt_features`, then `apt_velocity` with gates open or closed."""

    def __init__(self, model: Any, inputs: Any, autocast: bool = False):
        super().__init__(model.device, autocast)
        self.model = model
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            backbone, action = model.prepare_input(inputs)
            self.features, _ = model.apt_features(backbone)
            self.embodiment = action["embodiment_id"]
            self.state = model.apt_state(action["state"], self.embodiment)

    def readable(self) -> tuple[Tensor, Tensor]:
        """Image tokens and valid tokens, each [B, S] bool."""
        return self.features.image, self.features.image | self.features.text

    def read(self) -> np.ndarray:
        return pooled_features(self.features.vl, self.readable()[1])

    def compute(self, x: Tensor, time: Tensor, language: bool) -> Tensor:
        features = self.features if language else self.features.prior()
        bucket = bucket_of(self.model.action_head, time)
        return -self.model.apt_velocity(features, x, bucket, self.state, self.embodiment)


def bucket_of(head: Any, time: Tensor) -> Tensor:
    """Our time [B, D] -> GR00T's discrete one."""
    buckets = head.num_timestep_buckets
    return ((1 - time) * buckets).round().long().clamp(0, buckets - 1)


def pooled(tokens: Sequence[Tensor]) -> np.ndarray:
    """Image tokens per camera, each [B, S, C] -> mean and maximum over S, side by side: float32 [B, cameras * 2 C]."""
    parts = [pool for each in tokens for pool in (each.float().mean(1), each.float().amax(1))]
    return torch.cat(parts, -1).cpu().numpy()


@torch.inference_mode()
def groot_features(model: Any, inputs: Any, autocast: bool = False) -> np.ndarray:
    """Backbone features at image tokens, pooled as above: the words stand behind the images and do not reach them."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        backbone, _ = model.prepare_input(inputs)
        seen = model.backbone(backbone)
    features, mask = seen["backbone_features"].float(), seen["image_mask"].bool()[..., None]
    mean = (features * mask).sum(1) / mask.sum(1).clamp_min(1)
    return torch.cat([mean, features.masked_fill(~mask, -1e4).amax(1)], -1).cpu().numpy()
