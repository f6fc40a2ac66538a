"""GR00T's cache entries in lerobot, and its VLM left out of memory (what is stored: backends/torch_groot_cache)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from apt_plugin.backends import torch_groot_cache
from apt_plugin.backends.torch_absent import Absent
from apt_plugin.backends.torch_groot_cache import FIELDS, CachedGrootFlow
from apt_plugin.cache import Field
from apt_plugin.hosts.lerobot import cache
from apt_plugin.run.replace import replaced

__all__ = ["FIELDS", "CachedGrootFlow", "encode", "outline"]


def encode(policy: Any, batch: dict[str, Any]) -> tuple[list[dict[str, np.ndarray]], dict[str, Field]]:
    """The entries of a processed batch [B], and what they consist of."""
    backbone, _ = policy.model.prepare_input(policy._filter_groot_inputs(batch, include_action=True))
    return torch_groot_cache.encode(policy.model, backbone)


# -- leaving the VLM out ----------------------------------------------------------------------------------


def outline(config: Any) -> Any:
    """While active, the host builds its backbone as an outline (meta device)."""
    return _on_meta() if cache.active_for(config) is not None else nullcontext()


@contextmanager
def _on_meta() -> Iterator[None]:
    from lerobot.policies.groot import groot_n1_7 as host

    choose = host.get_backbone_cls

    def get_backbone_cls(config: Any) -> Any:
        cls = choose(config)

        def make(**kwargs: Any) -> Absent:
            with torch.device("meta"):
                return Absent(cls(**{**kwargs, "load_pretrained_weights": False}))

        return make

    with replaced(host, "get_backbone_cls", get_backbone_cls):
        yield
