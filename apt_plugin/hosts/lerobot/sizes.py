"""Build lerobot's π0 / π0.5 at other sizes, from lerobot's own classes.

lerobot knows `gemma_2b` and `gemma_300m` only and fixes the vocabulary, the SigLIP tower and the projector's
width, so a model small enough for a test or a laptop demo cannot be asked for. `sized` changes what three
names mean *while a model is being built*:

    with sized({"depth": 4, "vlm_width": 64}):
        policy = PI05Policy(config)        # the host's own code, smaller numbers

The sizes are not in the weights: a policy type that uses this keeps them in its config (see
`apt_plugin.tabletop.host`). Not thread-safe, like any change of a module attribute: build models one at a
time.
"""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from apt_plugin.run.replace import replaced

#: Sizes for tests: about 0.2 M parameters, most of them in 4 + 4 transformer layers.
TINY: dict[str, int] = {
    "vlm_width": 32,  # PaliGemma language model (and the projector's output)
    "vlm_mlp": 64,
    "expert_width": 32,  # action expert; even, because the time embedding is sine | cosine
    "expert_mlp": 64,
    "depth": 4,  # both streams: they share every attention layer
    "head_dim": 8,  # both streams; even, because of rotary positions
    "kv_heads": 1,  # both streams; query heads are 8, hard-coded in the host's joint layer
    "vocab": 512,
    "vision_width": 32,  # SigLIP tower
    "vision_mlp": 64,
    "vision_depth": 1,
    "vision_heads": 2,
    "patch": 14,  # pixels; the config's image_resolution must be a multiple
}

QUERY_HEADS = 8
_active: dict[str, int] | None = None


def complete(sizes: Mapping[str, int]) -> dict[str, int]:
    """Check `sizes` and fill what is missing from `TINY`.

    Store the result, not the partial mapping: a checkpoint must not change shape when `TINY` does.

    Raises:
        KeyError: an unknown key, with the nearest known one.
        ValueError: a value the host's code cannot be built with.
    """
    for key in sizes:
        if key not in TINY:
            near = difflib.get_close_matches(key, TINY, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise KeyError(f"Unknown size {key!r}.{hint} Known: {', '.join(TINY)}.")
    full = {**TINY, **sizes}
    for key, value in full.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"Size {key!r} must be a positive integer, got {value!r}.")
    for key in ("head_dim", "expert_width"):
        if full[key] % 2:
            raise ValueError(f"Size {key!r} must be even (sine | cosine halves), got {full[key]}.")
    if QUERY_HEADS % full["kv_heads"]:
        raise ValueError(f"Size 'kv_heads' must divide the host's 8 query heads, got {full['kv_heads']}.")
    if full["vision_width"] % full["vision_heads"]:
        raise ValueError(
            f"'vision_width' ({full['vision_width']}) must be a multiple of 'vision_heads' ({full['vision_heads']})."
        )
    return full


@contextmanager
def sized(sizes: Mapping[str, int] | None) -> Iterator[None]:
    """While active, lerobot's π0 and π0.5 models are built with these sizes. `None` changes nothing.

    Args:
        sizes: any of the keys of `TINY`; missing ones take its values.

    Raises:
        KeyError, ValueError: see `complete`.
        RuntimeError: entered inside a `sized` block of other sizes; two answers to "how wide is gemma_2b" are
            a bug.
    """
    global _active
    if sizes is None:
        yield
        return
    full = complete(sizes)
    if _active is not None:
        if _active != full:
            differ = {key: (_active[key], full[key]) for key in full if _active[key] != full[key]}
            raise RuntimeError(f"sized(...) is already active with other sizes; (outer, inner): {differ}.")
        yield
        return
    from lerobot.policies.pi0 import modeling_pi0
    from lerobot.policies.pi05 import modeling_pi05

    with ExitStack() as stack:
        for module in (modeling_pi05, modeling_pi0):
            for name, value in _replacements(module, full).items():
                stack.enter_context(replaced(module, name, value))
        _active = full
        try:
            yield
        finally:
            _active = None


def _replacements(module: ModuleType, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The three names, bound to the module's own classes at other sizes."""
    host_config = module.get_gemma_config
    vlm_class = module.PaliGemmaForConditionalGenerationWithPiGemma
    expert_class = module.PiGemmaForCausalLM

    def sized_gemma_config(variant: str):
        stream = {"gemma_2b": "vlm", "gemma_300m": "expert"}.get(variant)
        if stream is None:
            return host_config(variant)  # the host's own error
        return module.GemmaConfig(
            width=sizes[f"{stream}_width"],
            depth=sizes["depth"],
            mlp_dim=sizes[f"{stream}_mlp"],
            num_heads=QUERY_HEADS,
            num_kv_heads=sizes["kv_heads"],
            head_dim=sizes["head_dim"],
        )

    def sized_paligemma(config):
        # The host writes these four groups as literals between building the config and calling this name.
        vision, text = config.vision_config, config.text_config
        if vision.image_size % sizes["patch"]:
            raise ValueError(
                f"image_resolution {vision.image_size} is not a multiple of the patch size {sizes['patch']}: "
                f"write --policy.image_resolution='[{4 * sizes['patch']}, {4 * sizes['patch']}]' or "
                "change the size 'patch'."
            )
        vision.hidden_size = sizes["vision_width"]
        vision.intermediate_size = sizes["vision_mlp"]
        vision.num_hidden_layers = sizes["vision_depth"]
        vision.num_attention_heads = sizes["vision_heads"]
        vision.patch_size = sizes["patch"]
        vision.projection_dim = config.projection_dim = sizes["vlm_width"]
        text.vocab_size = config.image_token_index = sizes["vocab"]
        text.num_image_tokens = (vision.image_size // sizes["patch"]) ** 2
        return vlm_class(config=config)

    def sized_expert(config):
        config.vocab_size = sizes["vocab"]
        return expert_class(config=config)

    return {
        "get_gemma_config": sized_gemma_config,
        "PaliGemmaForConditionalGenerationWithPiGemma": sized_paligemma,
        "PiGemmaForCausalLM": sized_expert,
    }
