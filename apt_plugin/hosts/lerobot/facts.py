"""What Stage 2 must have in common with its Stage 1 in lerobot; `apt_plugin.agreement` compares it."""

from __future__ import annotations

from typing import Any

from apt_plugin.hosts.lerobot import families

# Fields of any policy's config: sizes of tensors, and what numbers and tokens mean to the weights.
FIELDS = (
    "chunk_size", "n_obs_steps", "max_state_dim", "max_action_dim", "tokenizer_max_length", "empty_cameras",
    "min_period", "max_period", "use_relative_actions", "relative_exclude_joints", "normalization_mapping",
)  # fmt: skip


def flags_of(config: Any) -> dict[str, str]:
    """Field -> how a command line writes it."""
    return {name: f"--policy.{name}" for name in (*FIELDS, *families.of(config.type).fields)}


def of(config: Any, dataset_meta: Any = None) -> dict[str, Any]:
    """The facts of a policy config; widths are the data's where `dataset_meta` is given."""
    found = {name: getattr(config, name) for name in flags_of(config) if hasattr(config, name)}
    given = {} if dataset_meta is None else dataset_meta.features
    for name, key, feature in (
        ("state width", "observation.state", config.robot_state_feature),
        ("action width", "action", config.action_feature),
    ):
        if feature is not None:
            found[name] = int(given[key]["shape"][0] if key in given else feature.shape[0])
    return found | {"cameras in their order": list(config.image_features)}
