"""The rows of `apt-plugin bench` for SmolVLA: random weights, forward and backward, no optimizer step.

B batch   K noise draws   L text tokens   T action tokens
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class

from apt_plugin.backends.torch_bench import flops
from apt_plugin.backends.torch_recompute import everything_kept
from apt_plugin.bench.rows import Made
from apt_plugin.bench.table import Row
from apt_plugin.hosts.lerobot.families.prefix_bench import PrefixBench
from apt_plugin.hosts.lerobot.families.smolvla.absent import put_outline
from apt_plugin.hosts.lerobot.groups import set_trainable
from apt_plugin.recipe import Recipe


@dataclass(frozen=True)
class Size:
    """A model and what it is fed."""

    language: dict[str, Any]  # of the VLM's language model
    vision: dict[str, Any]
    scale: int  # pixel shuffle
    layers: int
    cameras: int
    text: int  # L
    spoken: int  # of them the instruction
    chunk: int  # T
    batch: int
    dtype: str = "float32"

    @property
    def side(self) -> int:
        return self.vision["image_size"]


SIZES = {
    "tiny": Size(
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
         "image_size": 32, "patch_size": 8}, 2, 4, 2, 12, 6, 5, 2,
    ),
    "real": Size(  # HuggingFaceTB/SmolVLM2-500M-Video-Instruct
        {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
         "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280, "rms_norm_eps": 1e-5},
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
         "image_size": 512, "patch_size": 16}, 4, 16, 2, 48, 16, 50, 2,
    ),
}  # fmt: skip


def vlm_folder(size: Size, folder: Path) -> Path:
    """A SmolVLM's config and processor: lerobot reads both from a folder or the hub, and no weights."""
    import transformers
    from tokenizers import Tokenizer, models

    hf: Any = transformers  # it imports its classes by name, which a type checker does not see

    special = {"image_token": "<i>", "fake_image_token": "<f>", "global_image_token": "<g>",
               "end_of_utterance_token": "<e>"}  # fmt: skip
    vocabulary = {word: i for i, word in enumerate(["<unk>", *special.values()])}
    words = hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")), unk_token="<unk>",
        pad_token="<unk>", extra_special_tokens=special,
    )  # fmt: skip
    images, videos = hf.SmolVLMImageProcessor(), hf.SmolVLMVideoProcessor()
    hf.SmolVLMProcessor(images, words, videos, chat_template="x").save_pretrained(folder)
    config = hf.SmolVLMConfig(
        text_config={"model_type": "llama", **size.language}, vision_config=size.vision, scale_factor=size.scale,
        image_token_id=1,
    )  # fmt: skip
    config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": size.dtype, "torch_dtype": size.dtype}))
    return folder


@dataclass
class Bench(PrefixBench):
    """Makes one row's model at a time, so that only one is in memory."""

    size: Size
    device: str
    folder: Any = field(default_factory=tempfile.TemporaryDirectory)

    def policy(self, kind: str, stage: int = 1, **more: Any) -> Any:
        s = self.size
        config: Any = PreTrainedConfig.get_choice_class(kind)(
            **self.features(), chunk_size=s.chunk,
            n_action_steps=s.chunk, resize_imgs_with_padding=(s.side, s.side), num_vlm_layers=s.layers, device="cpu",
            vlm_model_name=str(vlm_folder(s, Path(self.folder.name))), tokenizer_max_length=s.text,
            push_to_hub=False, **more,
        )  # fmt: skip
        config.device = self.device
        torch.manual_seed(0)
        cls: Any = get_policy_class(kind)
        with torch.device(self.device):
            policy = cls(config)
            if stage == 2:  # of random weights: the flow is built anew with its fusion, the policy around it stays
                config.stage = 2
                config.train_expert_only = config.freeze_vision_encoder = config.vlm_mode != "full"
                policy.model = cls.flow[1](config).to(config.device)
                set_trainable(policy, config)
        policy.train()
        return policy

    def ours(self, stage: int, recipe: Recipe) -> Any:
        return self.policy("smolvla_apt", stage, recipe=recipe)

    def stock(self, everything: bool) -> Made:
        policy = self.policy("smolvla", train_expert_only=not everything, freeze_vision_encoder=not everything)
        (images, masks, prompt, actions), state = self.inputs(True), self.state()

        def step() -> None:
            noise, time = self.noise(None)
            policy.model.forward(images, masks, prompt.tokens, prompt.valid, state, actions, noise, time).mean(
            ).backward()  # fmt: skip

        return policy, step

    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen") -> Made:
        policy = self.apt(stage, noise_draws=row.draws, vlm=vlm)
        (images, masks, prompt, actions), state = self.inputs(stage == 2), self.state()
        flow = policy.model
        if cached:
            with torch.no_grad():
                images = [flow.vlm_with_expert.embed_image(image) for image in images]
            put_outline(flow)
        with torch.no_grad():
            once = flops(lambda: flow.prefix(images, masks, prompt, state))
            prefix = flow.prefix(images, masks, prompt, state)

        def expert() -> None:
            x, time = self.noise(1)
            flow.velocity(prefix, x, time, state).square().mean().backward()

        with everything_kept():
            one = flops(expert)
        policy.zero_grad(set_to_none=True)
        if vlm == "frozen":
            row.floor = row.draws * one + once
        if vlm == "lora":
            policy = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA"})

        def step() -> None:
            error = flow.forward(images, masks, prompt, actions, *self.noise(row.draws), state)
            error["loss"].mean().backward()

        return policy, step

    def acting(self, scale: float | None) -> Made:
        policy = self.policy("smolvla") if scale is None else self.apt(2, guidance_scale=scale)
        (images, masks, prompt, _), state = self.inputs(True), self.state()
        policy.eval()
        noise, _ = self.noise(None)
        own = (prompt,) if scale is not None else (prompt.tokens, prompt.valid)

        def step() -> None:
            policy.model.sample_actions(images, masks, *own, state, noise=noise)

        return policy, step


def smaller(size: Size, batch: int | None) -> Size:
    return size if batch is None else replace(size, batch=batch)
