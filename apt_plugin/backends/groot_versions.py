"""Why other releases of GR00T than N1.7 cannot be used, on any host. Imports no framework."""

from __future__ import annotations

OTHERS = {
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


def of_another_version(model_type: str | None) -> str | None:
    """Why a checkpoint of this `model_type` (its config.json) cannot be used; None for N1.7 and for foreign ones."""
    short = "".join(c for c in str(model_type).lower() if c not in "_-.d")
    for name, module in (("n16", "gr00t.model.gr00t_n1d6"), ("n15", "gr00t.model.gr00t_n1")):
        if short.endswith(name):
            return f"{OTHERS[module]}. Use GR00T N1.7 weights"
    return None
