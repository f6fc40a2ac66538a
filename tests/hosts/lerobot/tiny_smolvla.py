"""A tiny real SmolVLA on lerobot's own classes: a SmolVLM folder (config, processor) that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

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

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *SPECIAL.values(), *WORDS]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
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


def checkpoint(folder: Path, vlm: Path) -> Path:
    """A stock SmolVLA checkpoint with its processors."""
    inputs, outputs = features()
    config: Any = PreTrainedConfig.get_choice_class("smolvla")(
        input_features=inputs, output_features=outputs, vlm_model_name=str(vlm), load_vlm_weights=False, chunk_size=5,
        n_action_steps=5, max_state_dim=6, max_action_dim=7, num_steps=3, resize_imgs_with_padding=(32, 32),
        num_vlm_layers=4, tokenizer_max_length=12, device="cpu", push_to_hub=False,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = get_policy_class("smolvla")(config)
    policy.float()
    open_up(policy)
    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=None):
        processor.save_pretrained(folder)
    return folder
