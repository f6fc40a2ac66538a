"""Tensors that a model's own config calls one: a publisher stores one of them, and a later version may hold two."""

from __future__ import annotations

from typing import Any

from torch import nn


def declared(module: nn.Module) -> dict[str, set[str]]:
    """name -> all names of one tensor, by transformers' `tie_word_embeddings`: output head and input embedding.

    In memory they may be apart: lerobot 0.6.1 puts its own decoder into PaliGemma after transformers tied the old one.
    """
    out: dict[str, set[str]] = {}
    for path, part in module.named_modules():
        if getattr(getattr(part, "config", None), "tie_word_embeddings", False) is not True:
            continue
        tables = [_table(part, which) for which in ("get_input_embeddings", "get_output_embeddings")]
        if None in tables:
            continue
        names = {id(p): name for name, p in part.named_parameters(remove_duplicate=False)}
        pair = {f"{path}.{names[id(table)]}" if path else names[id(table)] for table in tables if id(table) in names}
        if len(pair) == 2:
            out |= {name: pair for name in pair}
    return out


def _table(part: Any, which: str) -> Any:
    """The weight of one of the two layers; None where the model has none, or does not say."""
    try:
        return getattr(getattr(part, which)(), "weight", None)
    except (AttributeError, NotImplementedError):  # transformers raises it for a model whose embedding was removed
        return None
