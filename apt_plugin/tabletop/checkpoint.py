"""Build a `pi05_tiny` policy for the tabletop and write it as a complete lerobot checkpoint directory.

    <directory>/config.json, model.safetensors, policy_preprocessor.json, policy_postprocessor.json,
    tokenizer/

Keys and shapes are those of lerobot's own π0.5 at these sizes, so any policy type built on π0.5 can start
from it.
"""

import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from apt_plugin.tabletop import arm
from apt_plugin.tabletop.data import CAMERA
from apt_plugin.tabletop.drawing import IMAGE_SIZE

#: Fields of the config that belong to the model or to the world; a policy type that starts from the
#: checkpoint needs them, too.
SHARED_FIELDS = (
    "sizes",
    "tokenizer_name",
    "tokenizer_max_length",
    "image_resolution",
    "chunk_size",
    "n_action_steps",
    "max_state_dim",
    "max_action_dim",
    "num_inference_steps",
)


def build(sizes: Mapping[str, int], tokenizer_directory: Path | str, prompt_length: int, seed: int = 0):
    """A `PI05TinyPolicy` with random weights, on CPU, for the tabletop's camera, state and action."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature

    from apt_plugin.tabletop.host.configuration_pi05_tiny import PI05TinyConfig
    from apt_plugin.tabletop.host.modeling_pi05_tiny import PI05TinyPolicy

    config = PI05TinyConfig(
        device="cpu",
        sizes=dict(sizes),
        tokenizer_name=str(tokenizer_directory),
        tokenizer_max_length=prompt_length,
        image_resolution=(IMAGE_SIZE, IMAGE_SIZE),
        chunk_size=arm.HORIZON,
        n_action_steps=arm.HORIZON,
        max_state_dim=3,
        max_action_dim=3,
        num_inference_steps=8,
        push_to_hub=False,
        input_features={
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, IMAGE_SIZE, IMAGE_SIZE)),
            "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (3,))},
    )
    torch.manual_seed(seed)
    policy = PI05TinyPolicy(config)
    rescale(policy)
    return policy


def rescale(policy) -> None:
    """Draw the transformer layers' matrices with standard deviation 1/sqrt(inputs).

    transformers draws them with 0.02, right for a width of 2048; at a width of 64 attention then starts so
    flat that it takes hundreds of steps to leave the plateau.
    """
    import torch

    pair = policy.model.paligemma_with_expert
    with torch.no_grad():
        for stream in (pair.paligemma.model.language_model, pair.gemma_expert.model):
            for name, weight in stream.layers.named_parameters():
                if weight.ndim == 2 and "layernorm" not in name:
                    weight.normal_(0.0, weight.shape[1] ** -0.5)


def save(policy, directory: Path | str, stats: Mapping | None = None) -> Path:
    """Write `policy`, its processors and a copy of its tokenizer; `stats` are the normalisation statistics
    (`data.reference_stats`).

    The tokenizer's absolute path goes into the config and the pre-processor: lerobot 0.6.1 saves the name of
    a tokenizer, not the tokenizer. Write checkpoints where they are to stay.
    """
    import torch
    from lerobot.policies.factory import make_pre_post_processors

    directory = Path(directory).absolute()
    words = directory / "tokenizer"
    if Path(policy.config.tokenizer_name).absolute() != words:
        shutil.copytree(policy.config.tokenizer_name, words, dirs_exist_ok=True)
    policy.config.tokenizer_name = str(words)
    if stats is not None:
        stats = {key: {name: torch.as_tensor(value) for name, value in group.items()} for key, group in stats.items()}
    policy.save_pretrained(directory)
    for processor in make_pre_post_processors(policy.config, dataset_stats=stats):
        processor.save_pretrained(directory)
    return directory


def host_flags(directory: Path | str, policy_type: str = "pi05_tiny") -> list[str]:
    """Flags for lerobot-train that start `policy_type` from the checkpoint: `--policy.type`,
    `--policy.pretrained_path` and `SHARED_FIELDS`.

    lerobot reads a config from `--policy.path` only, which also fixes the type; `--policy.pretrained_path`
    brings weights alone.
    """
    directory = Path(directory).absolute()
    config = json.loads((directory / "config.json").read_text())
    flags = [f"--policy.type={policy_type}", f"--policy.pretrained_path={directory}"]
    for name in SHARED_FIELDS:
        value = config[name]
        flags.append(f"--policy.{name}={value if isinstance(value, str) else json.dumps(value)}")
    return [*flags, "--policy.device=cpu", "--policy.push_to_hub=false"]


def shown(command: list[str]) -> str:
    """A command as one would type it."""
    return shlex.join(command)
