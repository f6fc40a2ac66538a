"""Leaving π's VLM out of memory where a run from a cache never calls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch

from apt_plugin.backends.torch_absent import Absent
from apt_plugin.hosts.lerobot import cache
from apt_plugin.run.replace import replaced

_VLM = "PaliGemmaForConditionalGenerationWithPiGemma"


def outline(config: Any, host: ModuleType) -> Any:
    """While active, the host builds its VLM as an outline (meta device) where the cache makes it needless."""
    active = cache.active_for(config)
    return _on_meta(host) if active is not None and active.kind == "kv" else nullcontext()


@contextmanager
def _on_meta(host: ModuleType) -> Iterator[None]:
    build = getattr(host, _VLM)

    def make(config: Any) -> Any:
        with torch.device("meta"):
            return build(config=config)

    with replaced(host, _VLM, make, over=True):  # in front of the sizes of a small model
        yield


def take_out(flow: Any) -> None:
    """Put outlines where the modules stood that a cached run never calls."""
    active = cache.active_for(flow.config)
    if active is not None:
        put_outline(flow, active.kind)


def put_outline(flow: Any, kind: str) -> None:
    """The same for a flow of any origin; the modules are gone afterwards."""
    pwe = flow.paligemma_with_expert
    if kind == "vision":
        inner = pwe.paligemma.model
        inner.vision_tower = Absent(inner.vision_tower.to("meta"))
        inner.multi_modal_projector = Absent(inner.multi_modal_projector.to("meta"))
        pwe.embed_image = lambda tokens: tokens  # what stands in the images' place has been embedded
        return
    absent = Absent(pwe.paligemma.to("meta"))
    language: Any = absent.module.model.language_model  # type: ignore[union-attr]
    rotary = type(language.rotary_emb)(config=language.config)  # the expert turns its queries by it
    language.rotary_emb = rotary
    absent.keep("rotary", rotary)
    pwe.paligemma = absent
