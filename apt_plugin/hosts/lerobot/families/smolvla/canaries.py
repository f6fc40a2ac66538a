"""What lerobot's SmolVLA must do, tried on a tiny one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apt_plugin.canaries import Canary
from apt_plugin.hosts.lerobot import canaries as shared
from apt_plugin.hosts.lerobot.families.smolvla.bench import SIZES, Bench

NAMES = (
    "model.vlm_with_expert.vlm.model.text_model.layers.0.self_attn.q_proj.weight",
    "model.vlm_with_expert.vlm.model.vision_model.post_layernorm.weight",
    "model.vlm_with_expert.vlm.model.connector.modality_projection.proj.weight",
    "model.vlm_with_expert.lm_expert.layers.0.self_attn.q_proj.weight",
    "model.action_in_proj.weight",
    "model.state_proj.weight",
)


def _made() -> tuple[Bench, Any]:
    bench = Bench(SIZES["tiny"], "cpu")
    return bench, bench.policy("smolvla").eval()


def _prefix() -> str | None:
    bench, policy = _made()
    return shared.prefix(bench, policy, 1, state=bench.state())  # the state is one token behind


def _names() -> str | None:
    policy = _made()[1]
    return shared.names(policy, policy.model.vlm_with_expert.vlm, NAMES)


def canaries() -> Sequence[Canary]:
    return [Canary("smolvla prefix", _prefix), Canary("smolvla names", _names)]
