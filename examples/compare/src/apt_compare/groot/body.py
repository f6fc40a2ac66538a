"""A tiny GR00T N1.7 of lerobot's own classes for the tabletop, as a complete checkpoint directory; no hub.

    <directory>/config.json, model.safetensors, policy_preprocessor.json, ...   a lerobot `groot` policy
    <directory>/base/    the same weights in NVIDIA's layout: what `--policy.base_model_path` takes
    <directory>/vlm/     Qwen3-VL's config, tokenizer and image processors

All parts of the real one are there: Qwen3-VL with DeepStack, cut at a layer; `vlln` and the adapter behind it; an
AlternateVLDiT whose blocks 0, 4 read text, 2, 6 images, and odd ones the actions themselves. One vision patch is one
cell of the table, so an image is nine tokens. Paths inside are absolute: write it where it is to stay.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apt_compare.groot import words as groot_words
from apt_plugin.errors import AptError
from apt_plugin.tabletop import arm
from apt_plugin.tabletop.data import CAMERA
from apt_plugin.tabletop.drawing import IMAGE_SIZE
from apt_plugin.tabletop.world import CELLS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizes:
    """How large the model is. `head_dim` is the VLM's; its rotary positions need a multiple of 4.

    `vlm_layers` is what is left after the cut: the action head reads the last of them.
    """

    vlm_width: int = 64
    vlm_mlp: int = 128
    vlm_layers: int = 4
    vlm_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vision_width: int = 64
    vision_mlp: int = 128
    vision_layers: int = 1
    vision_heads: int = 4
    adapter_layers: int = 1
    dit_width: int = 64
    dit_layers: int = 8
    dit_heads: int = 4
    dropout: float = 0.0  # of head and adapter; the host's 0.2 is for 3 B parameters

    def __post_init__(self) -> None:
        for name, whole, part in (
            ("vision_width", self.vision_width, self.vision_heads),
            ("dit_width", self.dit_width, self.dit_heads),
            ("vlm_width", self.vlm_width, self.dit_heads),
            ("vlm_heads", self.vlm_heads, self.kv_heads),
            ("head_dim", self.head_dim, 4),
        ):
            if whole % part:
                raise AptError(f"Sizes.{name} is {whole}; it has to be a multiple of {part} here.")


SMALL = Sizes()
#: Fields of the policy's config that belong to this body; every policy type that starts from it needs them.
FIELDS: dict[str, Any] = {
    "chunk_size": arm.HORIZON,
    "n_action_steps": arm.HORIZON,
    "max_state_dim": 3,
    "max_action_dim": 3,
    "use_bf16": False,
}


def vlm_config(sizes: Sizes) -> Any:
    """The `Qwen3VLConfig`."""
    from transformers import Qwen3VLConfig

    words = groot_words.vocabulary()
    ids = {word: index for index, word in enumerate(words)}
    half = sizes.head_dim // 2
    side = half // 3  # rotary dimensions for height, as many for width; the rest is time
    config: Any = Qwen3VLConfig  # its fields are declared where pyright does not look
    return config(
        text_config={
            "vocab_size": len(words),
            "hidden_size": sizes.vlm_width,
            "intermediate_size": sizes.vlm_mlp,
            "num_hidden_layers": sizes.vlm_layers,
            "num_attention_heads": sizes.vlm_heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "max_position_embeddings": 512,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": [half - 2 * side, side, side],
            },
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_width,
            "intermediate_size": sizes.vision_mlp,
            "num_heads": sizes.vision_heads,
            "patch_size": IMAGE_SIZE // CELLS,
            "spatial_merge_size": 1,
            "temporal_patch_size": groot_words.TEMPORAL,
            "out_hidden_size": sizes.vlm_width,
            "num_position_embeddings": CELLS**2,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids[groot_words.IMAGE],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids[groot_words.START],
        vision_end_token_id=ids[groot_words.END],
        tie_word_embeddings=True,
    )


def host_config(sizes: Sizes, vlm: Path | str) -> Any:
    """The host's `GR00TN17Config`."""
    from lerobot.policies.groot.groot_n1_7 import GR00TN17Config

    block = {"positional_embeddings": None, "dropout": sizes.dropout, "final_dropout": True}
    return GR00TN17Config(
        model_name=str(vlm),
        model_dtype="float32",
        dtype="float32",
        backbone_embedding_dim=sizes.vlm_width,
        select_layer=sizes.vlm_layers,
        hidden_size=sizes.dit_width,
        input_embedding_dim=sizes.dit_width,
        max_seq_len=arm.HORIZON,
        max_state_dim=3,
        max_action_dim=3,
        action_horizon=arm.HORIZON,
        state_dropout_prob=sizes.dropout,
        max_num_embodiments=1,  # each has matrices of its own in the head; one robot needs one
        diffusion_model_cfg={
            **block,
            "num_layers": sizes.dit_layers,
            "num_attention_heads": sizes.dit_heads,
            "attention_head_dim": sizes.dit_width // sizes.dit_heads,
            "norm_type": "ada_norm",
            "output_dim": sizes.dit_width,
            "interleave_self_attention": True,
        },
        vl_self_attention_cfg={
            **block,
            "num_layers": sizes.adapter_layers,
            "num_attention_heads": sizes.dit_heads,
            "attention_head_dim": sizes.vlm_width // sizes.dit_heads,
        }
        if sizes.adapter_layers
        else None,
    )


def build(directory: Path | str, sizes: Sizes = SMALL, seed: int = 0) -> Any:
    """Write `<directory>/vlm` and return a `GR00TN17` with random weights that points there, on CPU."""
    import torch
    from lerobot.policies.groot.groot_n1_7 import GR00TN17

    vlm = groot_words.save(Path(directory).absolute() / "vlm", IMAGE_SIZE // CELLS)
    vlm_config(sizes).save_pretrained(vlm)
    torch.manual_seed(seed)
    model = GR00TN17(host_config(sizes, vlm), load_backbone_weights=False)
    _rescale(model)
    return model


def _rescale(model: Any) -> None:
    """Draw the matrices that the hosts draw with 0.02 with standard deviation 1/sqrt(inputs) instead.

    0.02 is right for a width of 2048; at a width of 64 attention starts so flat that it takes hundreds of steps to
    leave the plateau. The word embeddings, which are also the answers' classifier, get it, too.
    """
    import torch

    with torch.no_grad():
        for name, weight in model.backbone.model.named_parameters():
            if weight.ndim >= 2 and "norm" not in name:
                weight.normal_(0.0, weight[0].numel() ** -0.5)
        for name, weight in model.action_head.named_parameters():
            if name.endswith(".W"):  # per embodiment: [embodiments, inputs, outputs]
                weight.normal_(0.0, weight.shape[1] ** -0.5)


def save(model: Any, directory: Path | str, stats: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a `GR00TN17` from `build` as a complete checkpoint.

    `stats` are the normalisation statistics (`data.reference_stats`); they go into the processors.
    """
    import torch
    from lerobot.policies.factory import get_policy_class
    from lerobot.policies.groot.processor_groot import make_groot_pre_post_processors

    directory = Path(directory).absolute()
    base = directory / "base"
    model.save_pretrained(base)
    # The host's sidecars: images stay as they are (its default is 256 x 256), and one embodiment is number 0.
    size = [IMAGE_SIZE, IMAGE_SIZE]
    kwargs = {"image_target_size": size, "image_crop_size": size, "formalize_language": True}
    (base / "processor_config.json").write_text(json.dumps({"processor_kwargs": kwargs}, indent=2))
    (base / "embodiment_id.json").write_text(json.dumps({"new_embodiment": 0}))
    config = config_of(directory, "groot")
    policy: Any = get_policy_class("groot")(config)
    policy.save_pretrained(directory)
    tensors = {key: {name: torch.as_tensor(v) for name, v in group.items()} for key, group in stats.items()}
    before, after = make_groot_pre_post_processors(config, dataset_stats=tensors)
    for step in before.steps:
        if hasattr(step, "model_name"):  # the host fixes a hub name here and takes a saved one as it is
            setattr(step, "model_name", str(directory / "vlm"))  # noqa: B010
    before.save_pretrained(directory)
    after.save_pretrained(directory)
    return directory


def config_of(directory: Path | str, policy_type: str = "groot", **fields: Any) -> Any:
    """A policy config for this body: `groot`, or `groot_apt` with `stage=` and `recipe=`; `fields` override.

    `pretrained_path` is the directory, so lerobot's factories find the processors there.
    """
    from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig

    from apt_plugin.hosts.lerobot import register

    register()
    directory = Path(directory).absolute()
    made: Any = PreTrainedConfig.get_choice_class(policy_type)
    config = made(
        **{
            "input_features": {
                CAMERA: PolicyFeature(FeatureType.VISUAL, (3, IMAGE_SIZE, IMAGE_SIZE)),
                "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
            },
            "output_features": {"action": PolicyFeature(FeatureType.ACTION, (3,))},
            "base_model_path": str(directory / "base"),
            "device": "cpu",
            "push_to_hub": False,
            **FIELDS,
            **fields,
        }
    )
    config.pretrained_path = directory
    return config


def policy_of(directory: Path | str, policy_type: str = "groot", start: Path | str | None = None, **fields: Any) -> Any:
    """The policy, as lerobot-train would build it, in train mode.

    Args:
        directory: the body. start: weights to start from if not the body's own, e.g. the Stage-1 result of a Stage 2.
    """
    from lerobot.policies.factory import get_policy_class

    config = config_of(directory, policy_type, **fields)
    if start is not None:
        config.pretrained_path = Path(start)
    return get_policy_class(policy_type).from_pretrained(config.pretrained_path, config=config).train()


def processors_of(directory: Path | str, config: Any) -> tuple[Any, Any]:
    """(pre-processor, post-processor) saved in `directory`, the body or any checkpoint trained from it."""
    from lerobot.policies.factory import make_pre_post_processors

    return make_pre_post_processors(config, pretrained_path=str(directory))


def host_flags(directory: Path | str, policy_type: str = "groot") -> list[str]:
    """Flags for lerobot-train that start `policy_type` from the checkpoint; see `checkpoint.host_flags`."""
    directory = Path(directory).absolute()
    flags = [
        f"--policy.type={policy_type}",
        f"--policy.pretrained_path={directory}",
        f"--policy.base_model_path={directory / 'base'}",
    ]
    flags += [f"--policy.{name}={json.dumps(value)}" for name, value in FIELDS.items()]
    return [*flags, "--policy.device=cpu", "--policy.push_to_hub=false", "--wandb.enable=false"]


def sizes_report(model: Any, sizes: Sizes) -> dict[str, Any]:
    """Parameters of VLM and head beside the sizes, for reports."""

    def count(part: Any) -> int:
        return sum(p.numel() for p in part.parameters())

    return {
        "sizes": asdict(sizes),
        "vlm_parameters": count(model.backbone),
        "head_parameters": count(model.action_head),
    }
