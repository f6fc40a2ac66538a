"""Leaving SmolVLA's image tower out of memory where a run from a cache never calls it."""

from __future__ import annotations

from typing import Any

from apt_plugin.backends.torch_absent import Absent
from apt_plugin.hosts.lerobot import cache


def take_out(flow: Any) -> None:
    """Put outlines where the modules stood that a cached run never calls."""
    if cache.active_for(flow.config) is not None:
        put_outline(flow)


def put_outline(flow: Any) -> None:
    """The same for a flow of any origin; the modules are gone afterwards."""
    vwe = flow.vlm_with_expert
    inner = vwe.get_vlm_model()
    inner.vision_model = Absent(inner.vision_model.to("meta"))
    inner.connector = Absent(inner.connector.to("meta"))
    vwe.embed_image = lambda tokens: tokens  # what stands in the images' place has been embedded
