"""What lerobot's tiny models must do: each family has its own, on the sizes of its bench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from apt_plugin.canaries import Canary, layout, order
from apt_plugin.hosts.lerobot.families import FAMILIES
from apt_plugin.hosts.lerobot.groups import in_vlm


def canaries() -> Sequence[Canary]:
    """Of every family, with its name in front."""
    from apt_plugin.hosts.lerobot import register

    register()
    return [canary for family in FAMILIES for canary in family.canaries()]


def prefix(bench: Any, policy: Any, behind: int, **more: Any) -> str | None:
    """Whether the host's own prefix is images, words (and what stands behind), each reading all before it.

    Args:
        bench: of the family, for inputs; policy: the host's own of that bench; behind: tokens of neither, at the end.
    """
    images, masks, prompt, _ = bench.inputs(True)

    def embedded(images: list[Tensor], words: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            tokens, _, blocks = policy.model.embed_prefix(images, masks, words, prompt.valid, **more)
        return tokens, blocks

    tokens, blocks = embedded(images, prompt.tokens)
    others, _ = embedded(images, prompt.tokens + 1)
    elsewhere, _ = embedded([1 - image for image in images], prompt.tokens)
    words = prompt.tokens.shape[1]
    by_words, by_images = ((tokens != other).any(-1)[0].tolist() for other in (others, elsewhere))
    if (why := order(by_words, by_images, words, behind)) is not None:
        return why
    inside = tokens.shape[1] - behind
    return "images and words are not one block of attention" if bool(blocks[:, :inside].any()) else None


def names(policy: Any, vlm: Any, wanted: Sequence[str]) -> str | None:
    """Whether weights have their published names, and the VLM's are told by theirs; vlm: its module in the policy."""
    inside = {id(p) for p in vlm.parameters()}
    wrong = [name for name, p in policy.named_parameters() if in_vlm(name) != (id(p) in inside)]
    if wrong:
        return f"{wrong[0]} is {'no' if in_vlm(wrong[0]) else 'a'} weight of the VLM, and its name says otherwise"
    return layout(policy.state_dict(), wanted)
