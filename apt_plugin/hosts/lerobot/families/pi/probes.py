"""What we rely on in lerobot's π beside the names that our files import. Imports no host."""

from __future__ import annotations

from apt_plugin.probes import Check, Probe, every, names, parameters, says


def _pi(family: str, state: tuple[str, ...], words: tuple[str, str]) -> Check:
    """The flow-matching model that `flow.py` stands in front of; it hands the first arguments over by position."""
    module, flow = f"policies.{family}.modeling_{family}", f"{family.upper()}Pytorch"
    policy = f"{family.upper()}Policy"
    ours = ("PaliGemmaForConditionalGenerationWithPiGemma", "PiGemmaForCausalLM", "get_gemma_config")  # sizes.py
    parts = ("sample_noise", "gradient_checkpointing_enabled", "action_out_proj")
    return every(
        names(module, *ours, *(f"{flow}.{part}" for part in parts)),
        names(module, *(f"{policy}.{part}" for part in ("prepare_action", "init_rtc_processor"))),
        parameters(module, f"{flow}.embed_prefix", "images", "img_masks", *words, first=True),
        parameters(module, f"{flow}.embed_suffix", *state, "noisy_actions", "timestep", first=True),
    )


PROBES = (
    Probe("policy fields", every(*(
        names(f"policies.{family}.configuration_{family}", *(f"{family.upper()}Config.{field}" for field in (
            "dtype", "train_expert_only", "rtc_config", "compile_model", "chunk_size", "max_action_dim",
            "num_inference_steps", "tokenizer_max_length", "optimizer_lr",
        ))) for family in ("pi05", "pi0")
    ))),
    Probe("π0.5 model", _pi("pi05", (), ("tokens", "masks"))),
    Probe("π0 model", _pi("pi0", ("state",), ("lang_tokens", "lang_masks"))),
    Probe("π0.5 prompt", says("policies.pi05.processor_pi05", "Task: {}, State: {};\nAction: ")),
    Probe("prompt steps", every(
        names("policies.pi05.processor_pi05", "Pi05PrepareStateTokenizerProcessorStep", "TokenizerProcessorStep"),
        names("policies.pi0.processor_pi0", "Pi0NewLineProcessor", "TokenizerProcessorStep"),
    )),
)  # fmt: skip
