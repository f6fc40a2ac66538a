"""What GR00T N1.7 must do in either of its hosts, tried on a tiny one: whence its features, which block reads what.

S prefix tokens   D feature width
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apt_plugin.backends.torch_groot import vlm_states
from apt_plugin.backends.torch_groot_dit import text_blocks
from apt_plugin.backends.torch_groot_groups import in_vlm
from apt_plugin.canaries import layout

HEAD = "action_head."
NAMES = (
    "backbone.model.model.language_model.layers.0.self_attn.q_proj.weight",
    "backbone.model.model.visual.merger.linear_fc1.weight",
    f"{HEAD}vlln.weight",
    f"{HEAD}vl_self_attention.transformer_blocks.0.attn1.to_q.weight",
    f"{HEAD}model.transformer_blocks.0.attn1.to_k.weight",
    f"{HEAD}state_encoder.layer1.W",
)


def features(model: Any, inputs: dict[str, Tensor]) -> str | None:
    """Whether what the host calls its features are the states behind its last kept layer, before the final norm.

    `hidden_states[-1]`, which it may read, is that in transformers 4.57 and is normed in 5.x.
    """
    backbone, _ = model.prepare_input(dict(inputs))
    given = {name: backbone[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    for name in ("_ensure_mm_token_type_ids", "_ensure_legacy_qwen3_position_ids"):  # lerobot's, transformers 5
        getattr(model.backbone, name, lambda _: None)(given)
    language = model.backbone.model.model.language_model
    with torch.no_grad():
        theirs = model.backbone(dict(backbone))["backbone_features"]
        ours = vlm_states(model.backbone.model, language.layers, given, [len(language.layers) - 1])[0]
        normed = language.norm(ours)
    if torch.equal(ours, theirs):
        return None
    behind = "behind the final norm" if torch.allclose(normed, theirs, atol=1e-5) else "of another layer"
    apart = float((ours - theirs).abs().max())
    return f"the host's features are {behind}, the recipe's before it: {apart:.3g} apart"


def blocks(model: Any, inputs: dict[str, Tensor]) -> str | None:
    """Whether the text blocks are those that are switched off in Stage 1, and no other block reads a word."""
    head, seen = model.action_head.model, {}
    text = text_blocks(head)
    handles = [
        block.attn1.register_forward_pre_hook(
            lambda _m, args, kwargs, i=i: seen.__setitem__(i, _read(args, kwargs)), with_kwargs=True
        )
        for i, block in enumerate(head.transformer_blocks)
    ]
    try:
        with torch.no_grad():
            model.eval()(dict(inputs))
    finally:
        for handle in handles:
            handle.remove()
    backbone, _ = model.prepare_input(dict(inputs))
    image = backbone["input_ids"] == model.backbone.model.config.image_token_id
    for index, mask in sorted(seen.items()):
        wanted = None if index % 2 else ~image if index in text else image
        if (mask is None) != (wanted is None) or (mask is not None and not _same(mask, wanted)):
            kind = "nothing of the prefix" if wanted is None else "words" if index in text else "image tokens"
            return f"block {index} of the action transformer does not read {kind} alone"
    return None


def names(model: Any) -> str | None:
    """Whether weights have their published names, and the VLM's are told by theirs."""
    inside = {id(p) for p in model.backbone.parameters()}
    wrong = [name for name, p in model.named_parameters() if in_vlm(name) != (id(p) in inside)]
    return f"{wrong[0]} is told apart wrongly from the VLM" if wrong else layout(model.state_dict(), NAMES)


def _read(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The mask [B, S] over the prefix that an attention was given; None for self-attention."""
    states = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
    return None if states is None else kwargs.get("attention_mask")


def _same(mask: Any, wanted: Any) -> bool:
    """Whether a mask, of booleans or of what is added, lets through what is wanted [B, S]."""
    flat = mask.reshape(mask.shape[0], -1, mask.shape[-1])[:, 0]
    return torch.equal(flat if flat.dtype == torch.bool else flat == 0, wanted)
