"""Names that the processor writes into a batch and the policy reads, and of the files that it finds."""

from __future__ import annotations

# lerobot's own keys for the prompt; ours arrange it (kept tokens first) and add the two fields that say how.
INSTRUCTION_MASK = "observation.language.instruction_mask"  # [B, L] bool
NATIVE_POSITION = "observation.language.native_position"  # [B, L] int64

PALIGEMMA = "google/paligemma-3b-pt-224"  # the tokenizer that lerobot hard-codes

WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # PEFT's
PREPROCESSOR = "policy_preprocessor.json"
