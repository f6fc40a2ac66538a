"""Which GR00T is here. Every release calls itself 0.1.0, so the model packages tell."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from apt_plugin.errors import AptError

_OTHERS = {
    "gr00t.model.gr00t_n1d6": (
        "GR00T N1.6 puts the text before the images under a causal LLM, so image tokens have read the instruction "
        "before any mask could act, and its checkpoints train the top four LLM layers by default. A language-free "
        "prior needs a constant prompt or reordered content there, and a prior that is not proven is not offered: its "
        "vendored VLM asserts flash-attn and bf16 for the LLM and sets its vision tower to flash-attn whatever is "
        "asked for, so that without that CUDA kernel it cannot be built, let alone compared bit for bit in float32"
    ),
    "gr00t.model.gr00t_n1": (
        "GR00T N1.5 has a plain DiT that passes no mask to its cross-attention and mixes image and text tokens in one "
        "softmax, behind an adapter that is unmasked too. There is no text block to close. Removing the text keys "
        "instead is not proven, and so not offered: its vendored VLM sets its vision tower to flash-attn whatever is "
        "asked for, so that without that CUDA kernel it cannot be built, let alone compared bit for bit in float32"
    ),
}


def reason() -> str | None:
    """Why the GR00T that imports here cannot be used; None when it can."""
    if importlib.util.find_spec("gr00t") is None:
        return "gr00t does not import here. Run inside a GR00T N1.7 checkout's environment."
    if _has("gr00t.model.gr00t_n1d7"):
        return None
    for module, why in _OTHERS.items():
        if _has(module):
            return f"{why}. Use GR00T N1.7 (gr00t.model.gr00t_n1d7)."
    return "this gr00t has no gr00t.model.gr00t_n1d7; the adapter was written and tested for N1.7 (commit 376ba89)."


def of_another_version(model_type: str | None) -> str | None:
    """Why a checkpoint of this `model_type` (its config.json) cannot be used; None for N1.7 and for foreign ones."""
    short = "".join(c for c in str(model_type).lower() if c not in "_-.d")
    for name, module in (("n16", "gr00t.model.gr00t_n1d6"), ("n15", "gr00t.model.gr00t_n1")):
        if short.endswith(name):
            return f"{_OTHERS[module]}. Use GR00T N1.7 weights"
    return None


def require() -> None:
    """
    Raises:
        AptError: with the reason.
    """
    if (why := reason()) is not None:
        raise AptError(f"gr00t: {why}")


def _has(module: str) -> bool:
    """Looked up as a file: `find_spec` of a submodule imports its parents, here torch and transformers for a launcher
    that only starts processes (13 s of CPU time)."""
    spec = importlib.util.find_spec("gr00t")
    places = [Path(root, *module.split(".")[1:]) for root in (spec and spec.submodule_search_locations) or ()]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)
