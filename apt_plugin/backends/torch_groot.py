"""The prefix of GR00T N1.7 in PyTorch: prompt tokens to features that image tokens share with no instruction.

    B batch   S prefix tokens   D feature width

Works on the modules that NVIDIA's Isaac GR00T and lerobot's port have in common (Qwen3-VL backbone, `vlln`,
`vl_self_attention`), so neither host is imported. Two facts shape it. The prompt is images, then text, under a
causal LLM: image states cannot know the instruction, and everything behind the last image token may be left out.
But the adapter behind it, `vl_self_attention`, is bidirectional and unmasked in both hosts: there image tokens read
the instruction, and padding too, so that features of one sample depend on its batch-mates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from apt_plugin.errors import AptError


@dataclass(frozen=True)
class Layout:
    """A batch of prompts with the padding behind: scene (all up to the last image token), words, padding.

    The hosts pad on the left, so that the place of an image token, and with it the order of every sum it enters,
    depends on the longest instruction in the batch. Attention itself knows only positions, which leave padding out.
    """

    tokens: Tensor  # [B, S] int64
    valid: Tensor  # [B, S] bool
    image: Tensor  # [B, S] bool
    scene: Tensor  # [B, S] bool: up to the last image token; language-free

    @property
    def text(self) -> Tensor:
        """[B, S] bool: what the host's text blocks read, chat scaffolding included."""
        return self.valid & ~self.image

    def wordless(self) -> Tensor:
        """[B, S] bool: `text` without all that stands behind the images; <|im_end|> there has heard the words."""
        return self.text & self.scene


def arrange(tokens: Tensor, attention_mask: Tensor, image_token: int, words: int | None = None) -> Layout:
    """Move padding behind, and keep as many places for words as asked for.

    Args:
        tokens, attention_mask: [B, S] as the host's collator made them.
        words: places behind the scene: 0 drops the instruction, None keeps what the batch needs, any other number
            gives one layout whatever the instructions are, on which bits can be compared.

    Raises:
        AptError: no image token, or more words than places.
    """
    valid = attention_mask.bool()
    order = torch.argsort((~valid).long(), dim=-1, stable=True)
    tokens, valid = tokens.gather(1, order), valid.gather(1, order)
    image = (tokens == image_token) & valid
    if not bool(image.any(-1).all()):
        raise AptError("A sample of this batch has no image token; GR00T's prior needs at least one camera.")
    place = torch.arange(tokens.shape[1], device=tokens.device)
    ends = torch.where(image, place, -1).amax(-1) + 1  # [B]
    first, need = int(ends.max()), int(valid.sum(-1).max())
    length = need if words is None else first + words
    if words == 0:
        valid = valid & (place < ends[:, None])
    elif length < need:
        raise AptError(f"The prompt has {need - first} tokens behind the images, {words} places were asked for.")
    if (missing := length - tokens.shape[1]) > 0:
        tokens = torch.nn.functional.pad(tokens, (0, missing))
        valid, image = (torch.nn.functional.pad(part, (0, missing)) for part in (valid, image))
        place = torch.arange(length, device=tokens.device)
    filler = 0 if image_token != 0 else 1  # never an image token: it would ask for pixels
    tokens, valid, image = tokens[:, :length], valid[:, :length], image[:, :length]
    return Layout(torch.where(valid, tokens, filler), valid, image & valid, place[:length] < ends[:, None])


def vlm_states(vlm: Any, layers: Sequence[nn.Module], inputs: Mapping[str, Any], taps: Sequence[int]) -> list[Tensor]:
    """Hidden states behind the decoder layers `taps`, before any final norm; the vocabulary head is not run.

    Hooked rather than read from `hidden_states`: its last entry is before the final norm in transformers 4.57 and
    behind it in 5.x (tests/hosts/lerobot/test_groot_parts.py is the canary). A layer's states are what the next layer
    is given, because Qwen3-VL adds its DeepStack features between the first layers; the last has no next one.

    Args:
        vlm: the host's Qwen3VLForConditionalGeneration; layers: its decoder layers that are kept.
        inputs: arguments of its inner model.

    Returns:
        per tap [B, S, D]
    """
    found: dict[int, Tensor] = {}

    def keep(index: int, states: Any) -> None:
        found[index] = states[0] if isinstance(states, tuple) else states

    def before(index: int) -> Any:
        def hook(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            keep(index, args[0] if args else kwargs["hidden_states"])

        return hook

    handles = []
    for tap in set(taps):
        if tap == len(layers) - 1:
            handles.append(layers[tap].register_forward_hook(lambda _m, _a, out, tap=tap: keep(tap, out)))
        else:
            handles.append(layers[tap + 1].register_forward_pre_hook(before(tap), with_kwargs=True))
    try:
        vlm.model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if missing := set(taps) - found.keys():
        raise AptError(f"No states came from VLM layers {sorted(missing)}: this transformers version runs others.")
    return [found[tap] for tap in taps]


def adapter_mask(layout: Layout) -> Tensor:
    """[B, S, S] bool: image queries see image keys, other tokens all valid keys, nobody padding.

    A token always sees itself: a row without any key is not finite in every attention kernel.
    """
    to_image = layout.image[:, :, None] & layout.image[:, None, :]
    to_all = layout.text[:, :, None] & layout.valid[:, None, :]
    itself = torch.eye(layout.valid.shape[1], dtype=torch.bool, device=layout.valid.device)
    return to_image | to_all | itself


def padding_mask(layout: Layout) -> Tensor:
    """[B, S, S] bool: all tokens see all valid keys and themselves."""
    itself = torch.eye(layout.valid.shape[1], dtype=torch.bool, device=layout.valid.device)
    return layout.valid[:, None, :] | itself


def adapt(vlln: nn.Module, adapter: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """The host's adapter between VLM and action head, behind a mask.

    Args:
        states: [B, S, D]; mask: [B, S, S] bool, or None for the host's own unmasked pass.
    """
    x = vlln(states)
    blocks = getattr(adapter, "transformer_blocks", None)
    if blocks is None or mask is None:
        return adapter(x)
    for block in blocks:
        x = block(x, attention_mask=mask)
    return x


def tap_layers(taps: str, sites: int, depth: int) -> list[int] | None:
    """The VLM layer that each fusion site reads: None is the host's own features (`taps: last`).

    "spread" pairs sites with depths evenly, as the paper does; "3,7,15" names layers, again spread over the sites.

    Raises:
        AptError: a layer that the host has not kept.
    """
    if taps == "last":
        return None
    named = list(range(depth)) if taps == "spread" else [int(part) for part in taps.split(",")]
    if bad := [layer for layer in named if not 0 <= layer < depth]:
        raise AptError(f"fusion.taps names VLM layer {bad[0]}; this model keeps layers 0 to {depth - 1}.")
    return [named[((site + 1) * len(named) - 1) // sites] for site in range(sites)]
