"""What GR00T stores per frame, and how the flow reads it; the same in every host of the model.

    B batch   S prefix tokens   D feature width

Backbone states, never what follows them: `vlln` and `vl_self_attention` train by default. Stage 1 stores image
tokens only: nothing reads the scaffolding between them while language is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apt_plugin.backends.torch_bytes import SAFE, to_numpy
from apt_plugin.backends.torch_groot import Layout
from apt_plugin.backends.torch_groot_flow import GrootFlow
from apt_plugin.cache import Field
from apt_plugin.stages import LIKELIHOOD

FIELDS = "apt_cached"  # the cached arrays, among the backbone's inputs


class CachedGrootFlow(GrootFlow):
    """GrootFlow whose backbone states may come from a cache."""

    def apt_state_layers(self) -> list[int]:
        """VLM layers whose states this stage reads: the last, and those that fusion taps."""
        return [len(self.apt_layers()) - 1, *sorted(set(self.apt_taps() or ()))]

    def apt_states(self, inputs: Mapping[str, Any]) -> tuple[list[Tensor], Layout]:
        if FIELDS not in inputs:
            return super().apt_states(inputs)
        fields = inputs[FIELDS]
        layout = layout_of(fields)
        found = {layer: unfold(fields, layer, layout, self.apt_stage) for layer in self.apt_state_layers()}
        last = self.apt_state_layers()[0]
        return [found[layer] for layer in (last, *(self.apt_taps() or ()))], layout


def encode(flow: Any, backbone: Mapping[str, Any]) -> tuple[list[dict[str, np.ndarray]], dict[str, Field]]:
    """The entries of a batch [B] of the backbone's inputs, and what they consist of."""
    two = flow.apt_stage == LIKELIHOOD
    states, layout = flow.apt_states(backbone)
    layers = flow.apt_state_layers()
    found = dict(zip((layers[0], *(flow.apt_taps() or ())), states, strict=True))
    entries = []
    for b in range(layout.valid.shape[0]):
        there = layout.valid[b] if two else layout.valid[b] & layout.scene[b]
        kept = there if two else layout.image[b]
        entry = {"image": to_numpy(layout.image[b][there]), "scene": to_numpy(layout.scene[b][there])}
        entries.append(entry | {f"states.{layer}": to_numpy(found[layer][b][kept]) for layer in layers})
    width = Field(SAFE[states[0].dtype], (states[0].shape[-1],))
    return entries, {"image": Field("BOOL"), "scene": Field("BOOL")} | {f"states.{layer}": width for layer in layers}


def layout_of(fields: Mapping[str, Tensor]) -> Layout:
    """The prompt's layout, scene first, padding behind; its tokens are not stored, because nothing reads them."""
    image = fields["image"]
    valid = torch.arange(image.shape[1], device=image.device) < fields["image.length"][:, None]
    return Layout(torch.zeros_like(image, dtype=torch.int64), valid, image & valid, fields["scene"] & valid)


def unfold(fields: Mapping[str, Tensor], layer: int, layout: Layout, stage: int) -> Tensor:
    """Cached states in their places [B, S, D], zero elsewhere."""
    rows, lengths = fields[f"states.{layer}"], fields[f"states.{layer}.length"]
    out = rows.new_zeros(*layout.valid.shape, rows.shape[-1])
    there = torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]
    out[layout.valid if stage == LIKELIHOOD else layout.image] = rows[there]
    return out
