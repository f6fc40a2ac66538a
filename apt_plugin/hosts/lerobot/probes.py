"""What we rely on in lerobot beside the names that our files import. Imports no host."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.probes import Check, Package, Probe, every, imports_of, names, parameters, says

TRAIN = "scripts.lerobot_train"
# Bound to something of ours for the life of a training process (training.py, cache_build.py).
REBOUND = (
    "make_train_eval_datasets", "save_checkpoint", "update_last_checkpoint", "make_policy",
    "make_pre_post_processors", "EpisodeAwareSampler", "make_optimizer_and_scheduler",
)  # fmt: skip


def _pi(family: str, state: tuple[str, ...], words: tuple[str, str]) -> Check:
    """The flow-matching model that `flow.py` stands in front of; it hands the first arguments over by position."""
    module, flow = f"policies.{family}.modeling_{family}", f"{family.upper()}Pytorch"
    policy = f"{family.upper()}Policy"
    ours = ("PaliGemmaForConditionalGenerationWithPiGemma", "PiGemmaForCausalLM", "get_gemma_config")  # sizes.py
    parts = ("_rtc_enabled", "sample_noise", "gradient_checkpointing_enabled", "action_out_proj")
    return every(
        names(module, *ours, *(f"{flow}.{part}" for part in parts)),
        names(module, *(f"{policy}.{part}" for part in ("_preprocess_images", "prepare_action", "init_rtc_processor"))),
        parameters(module, f"{flow}.embed_prefix", "images", "img_masks", *words, first=True),
        parameters(module, f"{flow}.embed_suffix", *state, "noisy_actions", "timestep", first=True),
    )


def takes_autocast(package: Package) -> bool:
    """Whether autocast has a flag of its own (--accelerator.mixed_precision); 0.6.1 read it off the policy's dtype."""
    return package.holds("configs.train", "TrainPipelineConfig.accelerator")


_AUTOCAST = {True: names("configs.accelerator", "AcceleratorConfig.mixed_precision"), False: says(TRAIN, "bf16")}
PROBES = (
    Probe("imports", imports_of(Path(__file__).parent)),
    Probe("training script", names(TRAIN, *REBOUND)),
    Probe("checkpoint saving", every(
        parameters("common.train_utils", "save_checkpoint", "checkpoint_dir", first=True),
        parameters("common.train_utils", "update_last_checkpoint", "checkpoint_dir", first=True),
        names("policies.pretrained", "PreTrainedPolicy._save_pretrained"),
    )),
    Probe("checkpoint files", every(
        says("utils.constants", "optimizer_state.safetensors", "rng_state.safetensors", "training_step.json", "last"),
        names("configs.train", "TRAIN_CONFIG_NAME"),
    )),
    Probe("bfloat16 autocast", lambda package: _AUTOCAST[takes_autocast(package)](package)),
    Probe("policy fields", every(*(
        names(f"policies.{family}.configuration_{family}", *(f"{family.upper()}Config.{field}" for field in (
            "dtype", "train_expert_only", "rtc_config", "compile_model", "chunk_size", "max_action_dim",
            "num_inference_steps", "tokenizer_max_length", "optimizer_lr",
        ))) for family in ("pi05", "pi0")
    ))),
    Probe("π0.5 model", _pi("pi05", (), ("tokens", "masks"))),
    Probe("π0 model", _pi("pi0", ("state",), ("lang_tokens", "lang_masks"))),
    Probe("Euler loop", parameters(
        "policies.common.flow_matching", "euler_integrate", "denoise_fn", "noise", "num_steps", "rtc_processor",
        "rtc_enabled", "inference_delay", "prev_chunk_left_over", "execution_horizon",
    )),
    Probe("π0.5 prompt", says("policies.pi05.processor_pi05", "Task: {}, State: {};\nAction: ")),
    Probe("prompt steps", every(
        names("policies.pi05.processor_pi05", "Pi05PrepareStateTokenizerProcessorStep", "TokenizerProcessorStep"),
        names("policies.pi0.processor_pi0", "Pi0NewLineProcessor", "TokenizerProcessorStep"),
    )),
    Probe("GR00T model", every(
        names("policies.groot.modeling_groot", *(f"GrootPolicy.{part}" for part in (
            "_create_groot_model", "_filter_groot_inputs", "_build_weight_decay_parameter_groups", "_groot_model",
            "predict_action_chunk",
        ))),
        names("policies.groot.groot_n1_7", "get_backbone_cls"),
    )),
    Probe("image reader", every(
        names("datasets.lerobot_dataset", "LeRobotDataset._ensure_reader", "LeRobotDataset.clear_image_transforms"),
        names("datasets.dataset_reader", "DatasetReader._query_videos", "DatasetReader.hf_dataset"),
    )),
    Probe("policy server", names("async_inference.constants", "SUPPORTED_POLICIES")),
    Probe("LoRA hooks", names("policies.pretrained", *(f"PreTrainedPolicy.{part}" for part in (
        "_get_default_peft_targets", "_validate_peft_config", "wrap_with_peft",
    )))),
)  # fmt: skip
