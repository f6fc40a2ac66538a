"""A tiny real GR00T N1.7 on lerobot's own classes, raw weights in NVIDIA's layout, and a tokenizer for it.

Values that a fresh initialisation would hide are opened up: features vary, and every block reaches the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.groot.groot_n1_7 import GR00TN17, GR00TN17Config

from apt_plugin.hosts.lerobot import register
from apt_plugin.recipe import Recipe, from_flat

register()

VLM = "nvidia/Cosmos-Reason2-2B"  # the host's processor looks for this name, relative to the working directory
CAMERAS = ("observation.images.top", "observation.images.wrist")
STATE, ACTION = 4, 3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>"]  # fmt: skip
TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}{%- for c in m.content %}"
    "{%- if c.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- c.text }}{%- endif %}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}"
)


def vlm_folder(root: Path) -> Path:
    """Tokenizer, chat template and image processors of a Qwen3-VL, character by character so that all words differ."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3VLConfig

    folder = root / VLM
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "<unk>", *letters])}
    tok = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tok.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token=SPECIAL[0], eos_token=SPECIAL[2], unk_token="<unk>",
        additional_special_tokens=SPECIAL, chat_template=TEMPLATE, image_token="<|image_pad|>",
        video_token="<|video_pad|>", vision_start_token="<|vision_start|>", vision_end_token="<|vision_end|>",
    )  # fmt: skip
    fast.save_pretrained(folder)
    from transformers import Qwen2VLImageProcessor, Qwen3VLVideoProcessor

    shared = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    Qwen2VLImageProcessor(size={"shortest_edge": 64 * 64, "longest_edge": 64 * 64}, **shared, **mean).save_pretrained(
        folder
    )
    Qwen3VLVideoProcessor(**shared, **mean).save_pretrained(folder)
    ids = {token: i for i, token in enumerate(SPECIAL)}
    Qwen3VLConfig(
        text_config={
            "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]},
            "rope_theta": 10000.0, "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def open_up(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every weight a size at which leaks and dead gates show."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "apt_" in name:
            continue
        noise = torch.randn(p.shape, generator=generator).to(p.dtype)
        if p.dim() > 1:
            fan = p[0].numel() if "patch_embed" in name else p.shape[-2] if name.endswith((".W",)) else p.shape[-1]
            table = p.dim() == 2 and name.endswith(("embed_tokens.weight", "pos_embed.weight", "_embedding.weight"))
            p.data = noise * (0.5 if table else fan**-0.5)
        else:
            p.data = p.data + 0.1 * noise


def base_config(vlm: Path, adapter: int = 2, dit: int = 8, select: int = 4, **more: Any) -> GR00TN17Config:
    block = {"positional_embeddings": None, "dropout": 0.1, "final_dropout": True, "attention_head_dim": 16}
    block["dropout"] = dropout = more.pop("dropout", 0.1)
    return GR00TN17Config(
        model_name=str(vlm), model_dtype="float32", dtype="float32", backbone_embedding_dim=32, select_layer=select,
        hidden_size=32, input_embedding_dim=32, max_seq_len=64,
        diffusion_model_cfg={**block, "num_layers": dit, "num_attention_heads": 2, "norm_type": "ada_norm",
                             "output_dim": 32, "interleave_self_attention": True},
        vl_self_attention_cfg={**block, "num_layers": adapter, "num_attention_heads": 2} if adapter else None,
        max_num_embodiments=32, state_dropout_prob=dropout,
        **{"max_state_dim": 6, "max_action_dim": 7, "action_horizon": 5} | more,
    )  # fmt: skip


@contextmanager
def home(factory: Any) -> Iterator[tuple[Path, Path]]:
    """A folder and a VLM in it, while the working directory is there: the host's processor finds its VLM by it."""
    import pytest  # not at the top: this file is read in environments without it

    root = factory.mktemp("groot")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield root, vlm_folder(root)


def base(folder: Path, vlm: Path, adapter: int = 2, **more: Any) -> Path:
    """A raw checkpoint in NVIDIA's layout."""
    torch.manual_seed(0)
    model = GR00TN17(base_config(vlm, adapter, **more), load_backbone_weights=False)
    open_up(model)
    model.backbone.model.tie_weights()
    model.save_pretrained(folder)
    return folder


def features() -> tuple[dict, dict]:
    inputs = {name: PolicyFeature(FeatureType.VISUAL, (3, 64, 64)) for name in CAMERAS}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    return inputs, {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}


def config(base_path: Path, stage: int | None = 1, recipe: Recipe | dict | None = None, **more: Any) -> Any:
    """A tiny groot_apt config; stage None gives the host's own."""
    inputs, outputs = features()
    settings: dict[str, Any] = {
        "input_features": inputs, "output_features": outputs, "base_model_path": str(base_path), "chunk_size": 5,
        "n_action_steps": 5, "max_state_dim": 6, "max_action_dim": 7, "device": "cpu", "push_to_hub": False,
        "use_bf16": False, "optimizer_lr": 1e-3,
    }  # fmt: skip
    if stage is None:
        return PreTrainedConfig.get_choice_class("groot")(**settings | more)
    frozen = Recipe(vlm="frozen")  # unless a test says otherwise: most compare what training leaves alone
    recipe = from_flat(recipe, frozen) if isinstance(recipe, dict) else recipe or frozen
    return PreTrainedConfig.get_choice_class("groot_apt")(**settings | {"stage": stage, "recipe": recipe} | more)


def stage1(base_path: Path, recipe: dict | None = None, **more: Any) -> Any:
    cfg = config(base_path, 1, recipe, **more)
    return get_policy_class(cfg.type)(cfg)


def stage2(prior: Path, base_path: Path, recipe: dict | None = None, **more: Any) -> Any:
    cfg = config(base_path, 2, recipe, **more)
    return get_policy_class(cfg.type).from_pretrained(prior, config=cfg)


def stock(base_path: Path) -> Any:
    cfg = config(base_path, None)
    return get_policy_class("groot")(cfg)


def raw(instructions: list[str], seed: int = 0) -> dict[str, Any]:
    """Same images, states and actions for the same seed, whatever the instructions are."""
    generator = torch.Generator().manual_seed(seed)
    n = len(instructions)
    out: dict[str, Any] = {name: torch.rand(n, 3, 64, 64, generator=generator) for name in CAMERAS}
    out["observation.state"] = torch.rand(n, STATE, generator=generator) * 2 - 1
    out["action"] = torch.rand(n, 5, ACTION, generator=generator) * 2 - 1
    return out | {"task": list(instructions), "index": torch.arange(n)}


def batch(policy: Any, instructions: list[str], seed: int = 0) -> dict[str, Any]:
    before, _ = make_pre_post_processors(policy.config, dataset_stats=statistics())
    return before(raw(instructions, seed))


def statistics() -> dict[str, Any]:
    def range_of(n: int) -> dict[str, torch.Tensor]:
        return {"min": -torch.ones(n), "max": torch.ones(n), "q01": -torch.ones(n), "q99": torch.ones(n),
                "mean": torch.zeros(n), "std": torch.ones(n)}  # fmt: skip

    return {"observation.state": range_of(STATE), "action": range_of(ACTION)}
