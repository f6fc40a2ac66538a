"""Names that the processor writes into a batch and the policy reads, and of the files that it finds."""

from __future__ import annotations

# lerobot's own keys for the prompt; ours arrange it (kept tokens first) and add the two fields that say how.
INSTRUCTION_MASK = "observation.language.instruction_mask"  # [B, L] bool
NATIVE_POSITION = "observation.language.native_position"  # [B, L] int64
GOAL_MASK = "observation.language.goal_mask"  # [B, L] bool, where Stage 1 is told goals

PALIGEMMA = "google/paligemma-3b-pt-224"  # the tokenizer that lerobot hard-codes

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # PEFT's
PREPROCESSOR = "policy_preprocessor.json"
ADAPTER_CONFIG = "adapter_config.json"
PROCESSORS = "policy_*processor*"  # files of the saved processors, statistics among them
# Of config.json and adapter_config.json, what says where and how a policy runs, or where it is published or found.
FREE = (
    "device", "use_amp", "compile_model", "compile_mode", "gradient_checkpointing", "push_to_hub", "repo_id", "private",
    "tags", "license", "pretrained_path", "pretrained_revision", "base_model_name_or_path", "revision",
    "inference_mode", "stage1_path",
)  # fmt: skip
