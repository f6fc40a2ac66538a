"""A tiny real SmolVLA on lerobot's own classes: a SmolVLM folder (config, processor) that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from apt_plugin.recipe import Recipe, from_flat
from tests.hosts.lerobot.tiny import WORDS, features, open_up

SPECIAL = {
    "image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}  # fmt: skip


def vlm_folder(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *SPECIAL.values(), "\n", *WORDS]  # the prompt ends with a line
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    parts = (pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Punctuation())
    tok.pre_tokenizer = pre_tokenizers.Sequence(list(parts))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        extra_special_tokens=SPECIAL,
    )  # fmt: skip
    processor = SmolVLMProcessor(SmolVLMImageProcessor(), fast, SmolVLMVideoProcessor(), chat_template="{{ 'x' }}")
    processor.save_pretrained(folder)
    text = {
        "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=2, image_token_id=4).save_pretrained(folder)
    return folder


def published(folder: Path) -> Path:
    """The same with weights, as SmolVLM is published: in bfloat16, which its config.json says too."""
    from transformers import AutoConfig, SmolVLMForConditionalGeneration

    config = AutoConfig.from_pretrained(vlm_folder(folder))
    SmolVLMForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def config(kind: str, vlm: Path, **more: Any) -> Any:
    """A tiny config of `smolvla` or `smolvla_apt`."""
    inputs, outputs = features()
    settings: dict[str, Any] = {
        "input_features": inputs, "output_features": outputs, "vlm_model_name": str(vlm), "load_vlm_weights": False,
        "chunk_size": 5, "n_action_steps": 5, "max_state_dim": 6, "max_action_dim": 7, "num_steps": 3,
        "resize_imgs_with_padding": (32, 32), "num_vlm_layers": 4, "tokenizer_max_length": 12, "device": "cpu",
        "push_to_hub": False,
    }  # fmt: skip
    return PreTrainedConfig.get_choice_class(kind)(**settings | more)


def stock(vlm: Path, **more: Any) -> Any:
    """lerobot's own SmolVLAPolicy."""
    torch.manual_seed(0)
    policy = get_policy_class("smolvla")(config("smolvla", vlm, **more))
    policy.float()
    open_up(policy)
    return policy


def apt(source: Path, vlm: Path, stage: int, recipe: dict | None = None, **more: Any) -> Any:
    """A stage of ours, loaded from plain weights or from a Stage 1."""
    made = from_flat(recipe or {}, Recipe(vlm="frozen"))
    settings = config("smolvla_apt", vlm, stage=stage, recipe=made, **{"optimizer_lr": 1e-3} | more)
    return get_policy_class(settings.type).from_pretrained(source, config=settings)


def checkpoint(folder: Path, vlm: Path) -> Path:
    """A stock SmolVLA checkpoint with its processors."""
    policy = stock(vlm)
    policy.save_pretrained(folder)
    return _with_processors(folder, policy.config)


def prior(folder: Path, plain: Path, vlm: Path) -> Path:
    """A Stage-1 checkpoint with its processors."""
    policy = apt(plain, vlm, 1)
    policy.save_pretrained(folder)
    return _with_processors(folder, policy.config)


def _with_processors(folder: Path, config: Any) -> Path:
    for processor in make_pre_post_processors(config, dataset_stats=None):
        processor.save_pretrained(folder)
    return folder
