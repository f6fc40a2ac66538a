"""lerobot's SmolVLAPolicy under the recipe.

B batch   T action tokens   A action dimensions
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.families.smolvla import cache
from apt_plugin.hosts.lerobot.prefix_policy import PrefixPolicy


class SmolVLAMixin(PrefixPolicy):
    """Mixed in front of the host's policy."""

    prepare_images: Any
    prepare_state: Any
    lora = r".*vlm_with_expert\.vlm\.model\.text_model\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

    def __init__(self, config: Any, source: Any = None, **kwargs: Any):
        if source is None and kwargs.get("dataset_meta") is not None and not config.load_vlm_weights:
            raise AptError(
                "No base is named, so the VLM would be random, and Stage 1 keeps it frozen. Write "
                "--policy.pretrained_path=lerobot/smolvla_base, or --policy.load_vlm_weights=true for a fresh expert."
            )
        super().__init__(config, source=source, **kwargs)

    @classmethod
    def stock_flow(cls, config: Any, stock: Any) -> Any:
        return super().stock_flow(config, replace(stock, load_vlm_weights=False))  # names and shapes need no values

    @contextmanager
    def _building(self, config: Any) -> Iterator[None]:
        config.freeze_vision_encoder = config.vlm_mode != "full"  # `freeze` of the recipe says the rest
        with super()._building(config):
            yield

    def _images(self, batch: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        return self.prepare_images(batch)

    def _cached(self, fields: dict[str, Tensor]) -> tuple[tuple[list, list], Any]:
        return cache.images_of(self, fields), None

    def _state(self, batch: dict[str, Tensor]) -> Tensor | None:
        return self.prepare_state(batch)

    def _counts(self, batch: dict[str, Any]) -> Tensor | None:
        pad = batch.get("action_is_pad")
        return None if pad is None else ~pad[..., None]

    def _mean(self, error: Tensor, counts: Tensor | None, each: bool) -> Tensor:
        """As in the host: over the steps that lie in their episode."""
        if counts is None:
            return error.mean((1, 2)) if each else error.mean()
        axes = (1, 2) if each else (0, 1, 2)
        return error.sum(axes) / (counts.sum(axes) * error.shape[-1]).clamp_min(1)

    def _get_action_chunk(self, batch: dict[str, Tensor], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """What the host's `select_action` fills its queue with."""
        return self.predict_action_chunk(batch, noise=noise, **kwargs)

    def _saved_in_full(self) -> list[str]:
        return ["lm_expert", *(n for n, _ in self.model.named_children() if n != "vlm_with_expert")]
