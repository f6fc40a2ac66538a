"""Tiny real π0 / π0.5 models on openpi's own classes: the subjects of the host tests.

Everything that a fresh initialisation would hide is opened up: openpi's SigLIP head and π0.5's adaRMS projections
start at zero, so no image and no attention reaches the output and a leak or a dead gate would go unseen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from openpi.models import gemma, lora, pi0_config, siglip
from openpi.models_pytorch import gemma_pytorch

from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.recipe import Recipe, from_flat

VOCAB = 600
REAL_SIGLIP = siglip.Module


class Pieces:
    """A stand-in for sentencepiece with PaliGemma's habits: digits one by one, words with the space before them."""

    def bos_id(self) -> int:
        return 2

    def serialized_model_proto(self) -> bytes:
        return b"pieces"  # what tells one tokenizer from another

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        return [self.bos_id()] * add_bos + [
            4 + zlib.crc32(piece.encode()) % (VOCAB - 8) for piece in re.findall(r" ?[A-Za-z]+|.|\n", text)
        ]


class Tokenizer:
    def __init__(self):
        self._tokenizer = Pieces()


@contextlib.contextmanager
def small():
    """openpi at small sizes: SigLIP mu with 56-pixel patches (16 tokens per camera), 600 words, a LoRA dummy."""
    real, variants, vocab = siglip.Module, gemma.get_config, gemma.PALIGEMMA_VOCAB_SIZE

    def get_config(variant: str) -> gemma.Config:
        if not variant.startswith("dummy"):
            return variants(variant)
        # 8 x 8 is the width: the host's converter to PyTorch reshapes o_proj as if it were square
        dummy = dataclasses.replace(variants("dummy"), head_dim=8)
        factors = {name: lora.LoRAConfig(rank=2, alpha=2.0) for name in ("attn", "ffn")}
        return dataclasses.replace(dummy, lora_configs=factors) if variant == "dummy_lora" else dummy

    paligemma, causal = gemma_pytorch.PaliGemmaForConditionalGeneration, gemma_pytorch.GemmaForCausalLM

    def small_paligemma(config):
        vision, text = config.vision_config, config.text_config
        vision.projection_dim = config.projection_dim = text.hidden_size  # 2048 is hard-coded
        vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers = 32, 128, 1
        vision.num_attention_heads, vision.patch_size, vision.image_size = 2, 56, 224
        text.vocab_size = config._vocab_size = config.image_token_index = VOCAB
        return paligemma(config=config)

    def small_causal(config):
        config.vocab_size = VOCAB
        return causal(config=config)

    gemma_pytorch.PaliGemmaForConditionalGeneration, gemma_pytorch.GemmaForCausalLM = small_paligemma, small_causal
    siglip.Module = lambda num_classes=None, *, variant=None, **more: real(num_classes, variant="mu/56", **more)
    gemma.get_config, gemma.PALIGEMMA_VOCAB_SIZE = get_config, VOCAB
    try:
        yield
    finally:
        siglip.Module, gemma.get_config, gemma.PALIGEMMA_VOCAB_SIZE = real, variants, vocab
        gemma_pytorch.PaliGemmaForConditionalGeneration, gemma_pytorch.GemmaForCausalLM = paligemma, causal


def stock(family: str, **more: Any) -> pi0_config.Pi0Config:
    """A tiny stock config (family "pi05" / "pi0"); π0.5 has its state in the prompt."""
    settings: dict[str, Any] = {
        "pi05": family == "pi05", "paligemma_variant": "dummy", "action_expert_variant": "dummy", "dtype": "float32",
        "action_horizon": 5, "action_dim": 7, "max_token_len": 120, "pytorch_compile_mode": None,
    }  # fmt: skip
    return pi0_config.Pi0Config(**settings | more)


def ours(family: str, stage: int = 1, recipe: Recipe | dict | None = None, **more: Any) -> Any:
    frozen = Recipe(vlm="frozen")  # unless a test says otherwise: most compare what training leaves alone
    recipe = from_flat(recipe, frozen) if isinstance(recipe, dict) else recipe or frozen
    return apt_config(stock(family, **more), stage, recipe)


def open_up(model: Any, seed: int = 0) -> Any:
    """Give every zero or tiny initial value a real one (see the module docstring); ours stay as they start."""
    rng = np.random.default_rng(seed)
    state = nnx.state(model, nnx.Param)
    for path, leaf in sorted(state.flat_state().items(), key=lambda item: str(item[0])):
        name = "/".join(map(str, path))
        if "apt_" in name:
            continue
        shape, value = leaf.value.shape, np.asarray(leaf.value)
        noise = rng.standard_normal(shape).astype(np.float32)
        if re.search(r"(Dense_0/kernel|img/head/kernel)$", name):
            value = noise * 0.5 * shape[-2] ** -0.5
        elif re.search(r"(bias|scale|lora_a|lora_b)$", name):
            value = value + 0.1 * noise
        leaf.value = jnp.asarray(value)
    nnx.update(model, state)
    return model


def model(config: Any, seed: int = 0) -> Any:
    """Call inside `small()`."""
    return open_up(config.create(jax.random.key(seed)), seed)


def observation(config: Any, instructions: list[str], seed: int = 0) -> tuple[Any, Any]:
    """An arranged observation and actions [B, T, A]: same images, states and actions whatever the words are."""
    from apt_plugin.hosts.openpi.prove_batch import make_batch

    return make_batch(config, Tokenizer(), instructions, state_dim=3, state_seed=seed, image_seed=seed)
