"""Tiny real π0 / π0.5 policies on lerobot's own classes: the subjects of the host tests.

Everything that a fresh initialisation would hide is opened up: π0.5's adaRMS gates start at zero (no attention
reaches the output) and so does the action head's effect, so a leak or a dead gate would go unseen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class

from apt_plugin.hosts.lerobot import register
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from apt_plugin.recipe import Recipe, from_flat

register()

CAMERAS = ("observation.images.top", "observation.images.wrist")
STATE, ACTION = 4, 3
WORDS = """task state action pick up the red blue green cup block bowl push and place on left right of
 , : ;""".split()


def tokenizer(folder: Path) -> str:
    """A word-level tokenizer with digits 0..255 as words; unknown words get hashed buckets, so that all differ."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *WORDS, *map(str, range(256))]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    tok.normalizer = normalizers.Lowercase()
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return str(folder)


def features() -> tuple[dict, dict]:
    inputs = {name: PolicyFeature(FeatureType.VISUAL, (3, 28, 28)) for name in CAMERAS}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    return inputs, {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}


def config(family: str, tokenizer_name: str, stage: int = 1, recipe: Recipe | dict | None = None, **more: Any) -> Any:
    """A tiny pi05_apt or pi0_apt config (family "pi05" / "pi0")."""
    from lerobot.configs import PreTrainedConfig

    cls = PreTrainedConfig.get_choice_class(f"{family}_apt")
    inputs, outputs = features()
    settings: dict[str, Any] = {
        "input_features": inputs, "output_features": outputs, "image_resolution": (28, 28), "chunk_size": 5,
        "n_action_steps": 5, "max_state_dim": 6, "max_action_dim": 7, "tokenizer_max_length": 32,
        "num_inference_steps": 3, "device": "cpu", "push_to_hub": False, "optimizer_lr": 1e-3,
    }  # fmt: skip
    frozen = Recipe(vlm="frozen")  # unless a test says otherwise: most compare what training leaves alone
    recipe = from_flat(recipe, frozen) if isinstance(recipe, dict) else recipe or frozen
    settings |= {"sizes": dict(TINY), "tokenizer_name": tokenizer_name, "stage": stage, "recipe": recipe}
    return cls(**settings | more)


def open_up(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every zero or tiny initial value a real one (see the module docstring)."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "apt_" in name:
            continue
        noise = torch.randn(p.shape, generator=generator).to(p.dtype)
        p.data = noise * p.shape[-1] ** -0.5 * 0.9 if p.dim() > 1 else p.data + 0.1 * noise


def stock(family: str, seed: int = 0, sizes: dict[str, int] | None = None, **more: Any) -> Any:
    """lerobot's own PI05Policy / PI0Policy, tiny."""
    from lerobot.configs import PreTrainedConfig

    cls = PreTrainedConfig.get_choice_class(family)
    inputs, outputs = features()
    cfg = cls(
        **{"input_features": inputs, "output_features": outputs, "max_state_dim": 6} | more, image_resolution=(28, 28),
        chunk_size=5, n_action_steps=5, max_action_dim=7, tokenizer_max_length=32, num_inference_steps=3, device="cpu",
        push_to_hub=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    with sized(sizes or TINY):
        policy = get_policy_class(family)(cfg)
    open_up(policy, seed)
    return policy


def stock_checkpoint(
    folder: Path, family: str, seed: int = 0, sizes: dict[str, int] | None = None, **more: Any
) -> Path:
    """A plain lerobot checkpoint of that policy."""
    stock(family, seed, sizes, **more).save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | changes))


def stage1(family: str, folder: Path, tokenizer_name: str, recipe: dict | None = None, **more: Any) -> Any:
    """Stage 1 loaded from plain weights."""
    cfg = config(family, tokenizer_name, 1, recipe, **more)
    return get_policy_class(cfg.type).from_pretrained(folder, config=cfg)


def stage2(family: str, prior: Path, tokenizer_name: str, recipe: dict | None = None, **more: Any) -> Any:
    """Stage 2 at step 0, from a saved Stage 1."""
    cfg = config(family, tokenizer_name, 2, recipe, **more)
    return get_policy_class(cfg.type).from_pretrained(prior, config=cfg)


def preprocessor(policy: Any) -> Any:
    """The policy's own input pipeline, without normalisation statistics."""
    from lerobot.policies import make_pre_post_processors

    return make_pre_post_processors(policy.config, dataset_stats=None)[0]


def batch(policy: Any, instructions: list[str | None], seed: int = 0, index: bool = True) -> dict[str, Any]:
    """A processed batch: same images, states and actions for the same seed, whatever the instructions are."""
    generator = torch.Generator().manual_seed(seed)
    n = len(instructions)
    raw: dict[str, Any] = {name: torch.rand(n, 3, 28, 28, generator=generator) for name in CAMERAS}
    raw["observation.state"] = torch.rand(n, STATE, generator=generator) * 2 - 1
    raw["action"] = torch.rand(n, 5, ACTION, generator=generator) * 2 - 1
    if all(text is not None for text in instructions):
        raw["task"] = list(instructions)
    if index:
        raw["index"] = torch.arange(n)
    return preprocessor(policy)(raw)
