"""Folding the gates of GR00T's text blocks into the host's own weights.

D suffix width   H heads   C head width

gate(W out + b) is (gate W) out + gate b: a checkpoint without the gates gives the same actions. That holds for the
attention branch alone, which is what is gated, and only where everything else is the host's own pass.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from apt_plugin.recipe import Fusion

OUT = "action_head.model.transformer_blocks.{}.attn1.to_out.0."
GATE = re.compile(r"action_head\.model\.apt_fusion\.(\d+)\.gate\.w$")


def fold(state: dict[str, Tensor], fusion: Fusion, every: int) -> dict[str, Tensor]:
    """A stock state dict from one of kind `host`.

    Args:
        state: names as in the host's checkpoint, gates included.
        every: blocks from one text block to the next (2 * attend_text_every_n_blocks). Text blocks without a gate
            were off; folded with 0 they stay off.

    Returns:
        A new dict without `apt_` names; untouched tensors are shared.
    """
    gates = {int(match[1]): state[name] for name in state if (match := GATE.search(name))}
    blocks = {int(m[1]) for name in state if (m := re.match(r"action_head\.model\.transformer_blocks\.(\d+)\.", name))}
    out = {name: tensor for name, tensor in state.items() if not GATE.search(name)}
    for block in sorted(b for b in blocks if b % every == 0):
        names = [OUT.format(block) + part for part in ("weight", "bias")]
        weight, bias = (state[name].double() for name in names)
        # float32 rounding of a float64 product: half a unit in the last place, once
        g = 2 * torch.sigmoid(gates[block].double()) - 1 if block in gates else torch.zeros(1, dtype=torch.float64)
        if fusion.gate == "head" and block in gates:
            weight = weight * g.repeat_interleave(weight.shape[1] // g.numel())[None]  # columns are heads in turn
            bias = bias * g.mean()
        else:
            weight, bias = weight * g[:, None], bias * g
        for name, tensor in zip(names, (weight, bias), strict=True):
            out[name] = tensor.to(state[name].dtype).contiguous()
    return out
