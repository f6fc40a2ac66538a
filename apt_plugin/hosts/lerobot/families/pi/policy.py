"""lerobot's PI0Policy / PI05Policy under the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from apt_plugin.hosts.lerobot.families.pi import absent, cache
from apt_plugin.hosts.lerobot.prefix_policy import PrefixPolicy
from apt_plugin.hosts.lerobot.sizes import sized


class PiPolicy(PrefixPolicy):
    """Mixed in front of the host's policy."""

    _preprocess_images: Any
    lora = r".*paligemma\.model\.language_model\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

    @contextmanager
    def _building(self, config: Any) -> Iterator[None]:
        with sized(config.sizes), super()._building(config), absent.outline(config, self.host):
            yield

    @classmethod
    def stock_flow(cls, config: Any, stock: Any) -> Any:
        with sized(config.sizes):
            return super().stock_flow(config, stock)

    def _images(self, batch: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        return self._preprocess_images(batch)

    def _cached(self, fields: dict[str, Tensor]) -> tuple[tuple[list, list], Any]:
        images = cache.images_of(self, fields) if "tokens" in fields else ([], [])
        return images, cache.prefix_of(fields) if "k" in fields else None

    def _saved_in_full(self) -> list[str]:
        return ["gemma_expert", *(n for n, _ in self.model.named_children() if n != "paligemma_with_expert")]
