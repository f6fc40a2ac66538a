"""GR00T N1.7."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from apt_plugin import families
from apt_plugin.canaries import Canary
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.families.family import Family
from apt_plugin.probes import Probe, every, names
from apt_plugin.vlm import Trained


class Groot(Family):
    """See `Family`."""

    rules = families.GROOT
    policies: ClassVar = {"groot": "groot_apt"}
    vlm = ".backbone."
    switches = ("tune_llm", "tune_visual", "tune_top_llm_layers")  # all off unless somebody says so
    switches_in_recipe = True
    expert_only: ClassVar = {
        "policy.tune_llm": "false", "policy.tune_visual": "false", "policy.tune_top_llm_layers": "0",
    }  # fmt: skip
    still = (families.GROOT_IMAGES, families.GROOT_WORDS)
    schedule: ClassVar = {"policy.max_steps": 10_000}  # its warm-up is a ratio of that, whatever --steps is
    fields = ("image_size", "embodiment_tag", "action_decode_transform")
    probes = (
        Probe("GR00T model", every(
            names("policies.groot.modeling_groot", "GrootPolicy.predict_action_chunk"),
            names("policies.groot.groot_n1_7", "get_backbone_cls"),
        )),
    )  # fmt: skip

    def register(self) -> None:
        import apt_plugin.hosts.lerobot.policies.configuration_groot_apt  # noqa: F401

    def canaries(self) -> Sequence[Canary]:
        from apt_plugin.hosts.lerobot.families.groot.canaries import canaries

        return canaries()

    def trained(self, value: Mapping[str, object]) -> Trained:
        llm, visual, top = (value.get(name) for name in self.switches)
        if top and not llm:
            raise AptError(
                f"--policy.tune_top_llm_layers is {top}: the recipe trains the language model whole or not at all. "
                "Write --policy.tune_llm=true, or drop it."
            )
        why = f"--policy.tune_llm={str(bool(llm)).lower()} --policy.tune_visual={str(bool(visual)).lower()}"
        return families.groot_trained(bool(llm), bool(visual), why)

    def subject(self, policy: Any, preprocessor: Any, folder: Path, changed: Callable[[], list[str]]) -> Any:
        from apt_plugin.hosts.lerobot.families.groot.prove import LerobotGrootSubject

        return LerobotGrootSubject(policy, preprocessor, folder)

    def encode(self, policy: Any, batch: dict[str, Any], kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        from apt_plugin.hosts.lerobot.families.groot.cache import encode

        return encode(policy, batch)

    def layers(self, policy: Any, kind: str) -> Any:
        return policy.model.apt_state_layers()

    def computes_in(self, policy: Any) -> str:
        return "bfloat16" if policy.config.use_bf16 else "float32"

    def autocasts(self, config: Any) -> bool:
        return bool(config.use_bf16)

    def listening(self) -> Any:
        from apt_plugin.hosts.lerobot.families.groot.listening import GrootListening

        return GrootListening()

    def bench(self, kind: str, size: str, device: str, batch: int | None, checkpointing: bool) -> Any:
        from apt_plugin.backends.torch_groot_bench import SIZES, smaller
        from apt_plugin.errors import choose
        from apt_plugin.hosts.lerobot.families.groot.bench import Bench

        return Bench(smaller(SIZES[choose("size", size, SIZES)], batch), device)

    def export(self, folder: Path, output: Path) -> None:
        from apt_plugin.hosts.lerobot.families.groot.export import export

        export(folder, output)


GROOT = Groot()
