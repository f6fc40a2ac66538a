"""π0.5 and π0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from apt_plugin import families
from apt_plugin.canaries import Canary
from apt_plugin.hosts.lerobot.families.family import Family
from apt_plugin.hosts.lerobot.families.pi.probes import PROBES
from apt_plugin.language import Segment, clean, pi0_segments, pi05_segments
from apt_plugin.vlm import Trained

_IMAGES = r"\.vision_tower\."
_BUILT = ("get_gemma_config", "PiGemmaForCausalLM")  # sizes.py


class Pi(Family):
    """See `Family`."""

    rules = families.PI
    policies: ClassVar = {"pi05": "pi05_apt", "pi0": "pi0_apt"}
    vlm = ".paligemma."
    # Its embedding table was removed by the host, so its output head never sees a gradient.
    unused = ("gemma_expert.lm_head.",)
    switches = ("train_expert_only", "freeze_vision_encoder")
    expert_only: ClassVar = {"policy.train_expert_only": "true"}
    still = (_IMAGES,)
    precision = "policy.dtype"
    schedule: ClassVar = {"policy.scheduler_warmup_steps": 1_000, "policy.scheduler_decay_steps": 30_000}
    fields = ("paligemma_variant", "action_expert_variant", "sizes", "image_resolution")
    probes = PROBES
    prompt_steps = ("Pi05PrepareStateTokenizerProcessorStep", "Pi0NewLineProcessor")

    def register(self) -> None:
        import apt_plugin.hosts.lerobot.policies.configuration_pi_apt  # noqa: F401

    def canaries(self) -> Sequence[Canary]:
        from apt_plugin.hosts.lerobot.families.pi.canaries import canaries

        return canaries()

    def trained(self, value: Mapping[str, object]) -> Trained:
        if value.get("train_expert_only"):
            return Trained("frozen", "--policy.train_expert_only=true")
        if value.get("freeze_vision_encoder"):
            return Trained("full", "--policy.freeze_vision_encoder=true", (_IMAGES,))
        return Trained("full", "--policy.train_expert_only=false")

    def renames(self, files: Sequence[Path], kind: str) -> dict[str, str]:
        """For openpi-born checkpoints that lack lerobot's `model.` prefix."""
        from apt_plugin.backends.torch_params import file_shapes

        stored = [name for path in files for name in file_shapes(path)]
        old = {"time_mlp_in": "action_time_mlp_in", "time_mlp_out": "action_time_mlp_out"}
        if kind == "pi05":
            old = {new: name for name, new in old.items()}
        renames: dict[str, str] = {}
        for name in stored:
            bare = name.removeprefix("model.")
            head, _, tail = bare.partition(".")
            renames[name] = f"model.{old.get(head, head)}.{tail}" if tail else f"model.{bare}"
        return renames

    def writes_state(self, kind: str) -> bool:
        return kind == "pi05"

    def segments(self, kind: str, task: str | None, digits: str) -> list[Segment]:
        if self.writes_state(kind):
            return pi05_segments(clean(task), digits)
        return pi0_segments((task or "").rstrip("\n"))

    def watched(self) -> Mapping[Any, Sequence[str]]:
        from lerobot.policies.pi0 import modeling_pi0, processor_pi0
        from lerobot.policies.pi05 import modeling_pi05, processor_pi05

        prompt = ("TokenizerProcessorStep",)
        models = {modeling_pi05: ("PI05Pytorch", *_BUILT), modeling_pi0: ("PI0Pytorch", *_BUILT)}
        return {**models, processor_pi05: prompt, processor_pi0: prompt}

    def subject(self, policy: Any, preprocessor: Any, folder: Path, changed: Callable[[], list[str]]) -> Any:
        from apt_plugin.hosts.lerobot.prove import LerobotSubject

        return LerobotSubject(policy, preprocessor, folder, changed)

    def encode(self, policy: Any, batch: dict[str, Any], kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        from apt_plugin.hosts.lerobot.families.pi.cache import encode

        return encode(policy, batch, kind)

    def layers(self, policy: Any, kind: str) -> Any:
        return "keys and values of all" if kind == "kv" else "vision tower and projector"

    def computes_in(self, policy: Any) -> str:
        return policy.config.dtype

    def autocasts(self, config: Any) -> bool:
        return config.dtype == "bfloat16"

    def bench(self, kind: str, size: str, device: str, batch: int | None, checkpointing: bool) -> Any:
        from apt_plugin.errors import choose
        from apt_plugin.hosts.lerobot.families.pi.bench import SIZES, Bench, smaller

        return Bench(kind, smaller(SIZES[choose("size", size, SIZES)], batch), device, checkpointing)


PI = Pi()
