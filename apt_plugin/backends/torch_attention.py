"""How much of the action tokens' attention lies on the instruction, watched while a policy runs as it always does.

    B batch   T query tokens   S prefix tokens   L text tokens   H heads   C head width

Every watcher is a context manager: inside, run one velocity; what it yields then holds a share in [0, 1] per layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from apt_plugin.backends.torch_fusion import InterleavedFusion, masked_softmax, rotate, scores
from apt_plugin.backends.torch_groot_dit import FeatureFusion, split_heads, text_blocks


def spoken_tokens(instructed: Tensor, valid: Tensor, blank: Tensor, blank_valid: Tensor) -> Tensor:
    """Which places of a prompt are the instruction: what is left between the beginning and the end that it shares
    with the empty prompt (template, state digits, images). All arguments [L] or longer, tokens and their validity.
    """
    places = valid.bool().nonzero().flatten().tolist()
    here, empty = instructed[valid.bool()].tolist(), blank[blank_valid.bool()].tolist()
    most = min(len(here), len(empty))
    start = next((i for i in range(most) if here[i] != empty[i]), most)
    end = next((i for i in range(most - start) if here[-1 - i] != empty[-1 - i]), most - start)
    out = torch.zeros(instructed.shape[0], dtype=torch.bool, device=instructed.device)
    out[places[start : len(here) - end]] = True
    return out


@contextlib.contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def watched_fusions(fusions: nn.Module | None, spoken: Tensor) -> Iterator[dict[str, float]]:
    """Our interleaved fusion layers in a π policy. `spoken`: [B, S] bool, valid instruction tokens."""
    shares: dict[str, float] = {}

    def watch(site: str) -> Callable:
        def hook(module: Any, args: tuple) -> None:
            x, rotary, k, _, mask = args
            b, t = k.shape[0], x.shape[1]
            q = module.q_proj(module.norm(x)).reshape(b, -1, t, module.heads, module.head_width).transpose(2, 3)
            weights = masked_softmax(scores(rotate(q, rotary).to(k.dtype), k), mask[:, None, None, None])
            shares[f"fusion {site}"] = float((weights * spoken[:, None, None, None]).sum(-1).mean())

        return hook

    sites = [] if fusions is None else fusions.named_children()
    with hooked([m.register_forward_pre_hook(watch(n)) for n, m in sites if isinstance(m, InterleavedFusion)]):
        yield shares


@contextlib.contextmanager
def watched_expert(expert: Any, text: slice, spoken: Tensor | None = None) -> Iterator[dict[str, float]]:
    """A stock π expert, where its attention hands out weights.

    Args:
        text: key positions of the prompt's L tokens; spoken: [B, L] bool, those that count (all).
    """
    shares: dict[str, float] = {}

    def watch(index: int) -> Callable:
        def hook(module: Any, args: tuple, out: Any) -> None:
            if isinstance(out, tuple) and len(out) > 1 and isinstance(out[1], Tensor):
                weights = out[1][..., text].float()
                kept = weights if spoken is None else weights * spoken[:, None, None]
                shares[f"expert {index}"] = float(kept.sum(-1).mean())

        return hook

    with hooked([layer.self_attn.register_forward_hook(watch(i)) for i, layer in enumerate(expert.layers)]):
        yield shares


@contextlib.contextmanager
def watched_smolvla(model: Any, prefix: int, text: slice, spoken: Tensor) -> Iterator[dict[str, float]]:
    """A stock SmolVLA expert: its attention function sees every layer's queries and keys in turn.

    Args:
        prefix: S; text: key positions of the prompt's L tokens; spoken: [B, L] bool.
    """
    shares: dict[str, float] = {}
    host = model.eager_attention_forward

    def watching(mask: Tensor, batch: int, width: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = k.repeat_interleave(q.shape[2] // k.shape[2], 2).float()
        logits = torch.einsum("bthc,bshc->bhts", q.float(), keys) * width**-0.5
        weights = logits.masked_fill(~mask[:, None], torch.finfo(torch.float32).min).softmax(-1)
        if k.shape[1] >= prefix:
            share = (weights[..., text] * spoken[:, None, None]).sum(-1).mean()
            shares[f"expert {len(shares)}"] = float(share)
        return host(mask, batch, width, q, k, v)

    object.__setattr__(model, "eager_attention_forward", watching)  # on this object; its class is left alone
    try:
        yield shares
    finally:
        object.__delattr__(model, "eager_attention_forward")


# -- GR00T ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """What GR00T's action transformer may read, each [B, S] bool."""

    image: Tensor
    text: Tensor  # valid tokens that are no image token
    words: Tensor  # of them the instruction

    @classmethod
    def of(cls, image: Tensor, valid: Tensor, instructed: Mapping[str, Tensor], blank: Mapping[str, Tensor]) -> Prompt:
        """From one sample's `input_ids` and `attention_mask` under an instruction and without one.

        `image`, `valid`: [1, S] as the policy has them: without the padding of a batch, and where a prior leaves words
        out, without those.
        """
        here, empty = ((each["input_ids"][0], each["attention_mask"][0]) for each in (instructed, blank))
        words = spoken_tokens(*here, *empty)[None, : image.shape[1]].to(image.device)
        return cls(image & valid, valid & ~image, valid & ~image & words)


@contextlib.contextmanager
def watched_groot(dit: Any, prompt: Prompt) -> Iterator[dict[str, float]]:
    """GR00T's text blocks, stock or gated, and fusion layers of ours. Shares are there once the block has ended.

    Text blocks read text alone: what is left of their attention lies on the chat scaffolding around the instruction.
    """
    shares: dict[str, float] = {}
    seen: dict[str, dict[str, Tensor]] = {}
    sites: dict[str, tuple[Any, Any, int, Tensor]] = {}
    for index in text_blocks(dit):
        attn = dit.transformer_blocks[index].attn1
        sites[f"text block {index}"] = (attn.to_q, attn.to_k, attn.heads, prompt.text)
    fusions: Any = getattr(dit, "apt_fusion", None)
    for site, module in () if fusions is None else fusions.named_children():
        if isinstance(module, FeatureFusion):
            readable = prompt.text | prompt.image
            sites[f"fusion {site}"] = (module.q_proj, module.k_proj, module.heads, readable)

    def keep(name: str, part: str) -> Callable:
        return lambda _module, _args, out: seen.setdefault(name, {}).update({part: out.detach().float()})

    handles = [
        module.register_forward_hook(keep(name, part))
        for name, (q, k, _, _) in sites.items()
        for part, module in (("q", q), ("k", k))
    ]
    with hooked(handles):
        yield shares
    for name, parts in seen.items():
        if parts.keys() == {"q", "k"}:
            shares[name] = _share(parts, sites[name][2], sites[name][3], prompt.words)


def _share(parts: Mapping[str, Tensor], heads: int, readable: Tensor, words: Tensor) -> float:
    batch = readable.shape[0]
    q, k = (split_heads(parts[name], batch, heads) for name in ("q", "k"))
    weights = masked_softmax(q @ k.transpose(-1, -2) / k.shape[-1] ** 0.5, readable[:, None, None])
    return float((weights * words[:, None, None]).sum(-1).mean())
