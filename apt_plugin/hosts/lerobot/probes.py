"""What we rely on in lerobot beside the names that our files import. Imports no host."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.hosts.lerobot.families import FAMILIES, POLICIES
from apt_plugin.hosts.lerobot.private import PRIVATE
from apt_plugin.probes import Package, Probe, every, imports_of, names, parameters, private, says

TRAIN = "scripts.lerobot_train"
# Bound to something of ours for the life of a training process (training.py, cache_build.py).
REBOUND = (
    "make_train_eval_datasets", "save_checkpoint", "update_last_checkpoint", "make_policy",
    "make_pre_post_processors", "EpisodeAwareSampler", "make_optimizer_and_scheduler",
)  # fmt: skip


def takes_autocast(package: Package) -> bool:
    """Whether autocast has a flag of its own (--accelerator.mixed_precision); 0.6.1 read it off the policy's dtype."""
    return package.holds("configs.train", "TrainPipelineConfig.accelerator")


def card_by_config(package: Package) -> bool:
    """Whether a function writes model cards, of a config (cards.py); in 0.6.1 the policy does."""
    return package.holds("common.train_utils", "generate_model_card")


_CARD = {
    True: parameters("common.train_utils", "generate_model_card", "model_cfg", "cfg", first=True),
    False: names("policies.pretrained", "PreTrainedPolicy.generate_model_card"),
}
_AUTOCAST = {True: names("configs.accelerator", "AcceleratorConfig.mixed_precision"), False: says(TRAIN, "bf16")}
PROBES = (
    Probe("imports", imports_of(Path(__file__).parent)),
    private(PRIVATE),
    Probe("training script", names(TRAIN, *REBOUND)),
    Probe("warm-up", every(
        names(TRAIN, "make_optimizer_and_scheduler", "update_policy"),
        lambda package: names(TRAIN, "load_training_state")(package) and names(TRAIN, "resume_before_prepare")(package),
    )),
    Probe("checkpoint saving", every(
        parameters("common.train_utils", "save_checkpoint", "checkpoint_dir", first=True),
        parameters("common.train_utils", "update_last_checkpoint", "checkpoint_dir", first=True),
    )),
    Probe("checkpoint files", every(
        says("utils.constants", "optimizer_state.safetensors", "rng_state.safetensors", "training_step.json", "last"),
        names("configs.train", "TRAIN_CONFIG_NAME"),
    )),
    Probe("bfloat16 autocast", lambda package: _AUTOCAST[takes_autocast(package)](package)),
    Probe("Euler loop", parameters(
        "policies.common.flow_matching", "euler_integrate", "denoise_fn", "noise", "num_steps", "rtc_processor",
        "rtc_enabled", "inference_delay", "prev_chunk_left_over", "execution_horizon",
    )),
    Probe("image reader", every(
        names("datasets.lerobot_dataset", "LeRobotDataset.clear_image_transforms"),
        names("datasets.dataset_reader", "DatasetReader.hf_dataset"),
    )),
    # A saved processor's steps are looked up in the host's registry: importing a policy's package fills it (steps.py).
    Probe("registered steps", every(
        *(names(f"policies.{kind}", f"make_{kind}_pre_post_processors") for kind in POLICIES)
    )),
    Probe("policy server", names("async_inference.constants", "SUPPORTED_POLICIES")),
    Probe("model cards", lambda package: _CARD[card_by_config(package)](package)),
    Probe("LoRA", names("policies.pretrained", "PreTrainedPolicy.wrap_with_peft")),
    *(probe for family in FAMILIES for probe in family.probes),
)  # fmt: skip
