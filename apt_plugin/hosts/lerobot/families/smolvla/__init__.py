"""SmolVLA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from apt_plugin import families
from apt_plugin.canaries import Canary
from apt_plugin.hosts.lerobot.families.family import Family
from apt_plugin.language import Segment, pi0_segments
from apt_plugin.probes import Probe, every, names, parameters
from apt_plugin.vlm import Trained

_IMAGES = r"\.vision_model\."
_MODEL, _FLOW = "policies.smolvla.modeling_smolvla", "VLAFlowMatching"


class SmolVLA(Family):
    """See `Family`."""

    rules = families.Rules("SmolVLA", ("vision",), "image tokens (vision)")
    policies: ClassVar = {"smolvla": "smolvla_apt"}
    vlm = ".vlm_with_expert.vlm."
    switches = ("train_expert_only", "freeze_vision_encoder")
    expert_only: ClassVar = {"policy.train_expert_only": "true"}
    still = (_IMAGES,)
    schedule: ClassVar = {"policy.scheduler_warmup_steps": 1_000, "policy.scheduler_decay_steps": 30_000}
    fields = (
        "vlm_model_name", "num_vlm_layers", "num_expert_layers", "expert_width_multiplier", "attention_mode",
        "self_attn_every_n_layers", "resize_imgs_with_padding", "add_image_special_tokens",
    )  # fmt: skip
    probes = (
        Probe("SmolVLA model", every(
            names(_MODEL, *(f"{_FLOW}.{part}" for part in ("sample_noise", "sample_time"))),
            names(_MODEL, *(f"SmolVLAPolicy.{part}" for part in (
                "prepare_images", "prepare_state", "prepare_action",
            ))),
            parameters(
                _MODEL, f"{_FLOW}.embed_prefix", "images", "img_masks", "lang_tokens", "lang_masks", "state", first=True
            ),
            parameters(_MODEL, f"{_FLOW}.embed_suffix", "noisy_actions", "timestep", first=True),
            names("policies.smolvla.smolvlm_with_expert", *(f"SmolVLMWithExpertModel.{part}" for part in (
                "embed_image", "get_vlm_model", "lm_expert", "num_vlm_layers", "self_attn_every_n_layers",
                "attention_mode", "num_attention_heads",
            ))),
        )),
    )  # fmt: skip
    prompt_steps = ("NewLineTaskProcessorStep",)

    def register(self) -> None:
        import apt_plugin.hosts.lerobot.policies.configuration_smolvla_apt  # noqa: F401

    def canaries(self) -> Sequence[Canary]:
        from apt_plugin.hosts.lerobot.families.smolvla.canaries import canaries

        return canaries()

    def trained(self, value: Mapping[str, object]) -> Trained:
        if value.get("train_expert_only", True):  # the host's default
            return Trained("frozen", "--policy.train_expert_only=true")
        if value.get("freeze_vision_encoder", True):
            return Trained("full", "--policy.freeze_vision_encoder=true", (_IMAGES,))
        return Trained("full", "--policy.train_expert_only=false")

    def segments(self, kind: str, task: str | None, digits: str) -> list[Segment]:
        return pi0_segments((task or "").rstrip("\n"))

    def watched(self) -> Mapping[Any, Sequence[str]]:
        from lerobot.policies.smolvla import modeling_smolvla, processor_smolvla

        return {modeling_smolvla: (_FLOW,), processor_smolvla: ("TokenizerProcessorStep",)}

    def subject(self, policy: Any, preprocessor: Any, folder: Path, changed: Callable[[], list[str]]) -> Any:
        from apt_plugin.hosts.lerobot.prove import LerobotSubject

        return LerobotSubject(policy, preprocessor, folder, changed)

    def encode(self, policy: Any, batch: dict[str, Any], kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        from apt_plugin.hosts.lerobot.families.smolvla.cache import encode

        return encode(policy, batch)

    def layers(self, policy: Any, kind: str) -> Any:
        return "vision tower and connector"

    def computes_in(self, policy: Any) -> str:
        return str(policy.model.vlm_with_expert.get_vlm_model().vision_model.dtype).removeprefix("torch.")

    def half(self, config: Any) -> bool:
        return bool(config.load_vlm_weights)  # the host reads them in bfloat16

    def bench(self, kind: str, size: str, device: str, batch: int | None, checkpointing: bool) -> Any:
        from apt_plugin.errors import choose
        from apt_plugin.hosts.lerobot.families.smolvla.bench import SIZES, Bench, smaller

        return Bench(smaller(SIZES[choose("size", size, SIZES)], batch), device)


SMOLVLA = SmolVLA()
