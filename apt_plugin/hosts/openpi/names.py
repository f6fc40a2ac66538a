"""Names shared by the files of this adapter. Imports nothing of the host."""

from __future__ import annotations

# host model -> ours; the host's name is what a record calls `policy`.
POLICIES = {"pi0": "AptPi0 (pi0)", "pi05": "AptPi0 (pi05)"}

# Two fields of openpi's Observation that π0-FAST alone uses. They are type-checked, pass through from_dict and both
# preprocess functions untouched, and so carry what a prompt's tokens are without a change of the host.
INSTRUCTION_FIELD = "token_loss_mask"  # [B, L] bool
POSITION_FIELD = "token_ar_mask"  # [B, L] int

VLM = r"PaliGemma/(?!.*llm.*_1).*"  # paths of the VLM's parameters; the expert's carry `_1` (openpi pi0_config.py)
LORA_HOLDS = rf"^(?=PaliGemma/llm/){VLM}$"  # of them, what a LoRA of openpi holds still beside its own factors
EXPERT = r".*llm.*_1.*"

ASSETS = "apt"  # our norm stats lie one folder below the host's, see records.py
MODEL = "apt_model.json"  # beside apt.json: what the host's config said of the model
PARAMS, WEIGHTS = "params", "model.safetensors"  # of a step folder, in JAX and in PyTorch
PRELOAD = "APT_PRELOAD"  # modules imported before the host's script runs, e.g. with configs of your own
