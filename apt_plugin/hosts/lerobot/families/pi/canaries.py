"""What lerobot's π0.5 and π0 must do, tried on tiny ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apt_plugin.canaries import Canary
from apt_plugin.hosts.lerobot import canaries as shared
from apt_plugin.hosts.lerobot.families.pi.bench import SIZES, Bench

_PAIR = "model.paligemma_with_expert."
NAMES = (
    f"{_PAIR}paligemma.lm_head.weight",
    f"{_PAIR}paligemma.model.language_model.layers.0.self_attn.q_proj.weight",
    f"{_PAIR}paligemma.model.vision_tower.vision_model.post_layernorm.weight",
    f"{_PAIR}paligemma.model.multi_modal_projector.linear.weight",
    f"{_PAIR}gemma_expert.model.layers.0.self_attn.q_proj.weight",
    "model.action_in_proj.weight",
    "model.action_out_proj.weight",
)
OWN = {"pi05": ("model.time_mlp_in.weight",), "pi0": ("model.action_time_mlp_in.weight", "model.state_proj.weight")}


def _of(kind: str) -> list[Canary]:
    def made() -> tuple[Bench, Any]:
        bench = Bench(kind, SIZES["tiny"], "cpu")
        return bench, bench.policy(kind).eval()

    def keys() -> str | None:
        policy = made()[1]
        return shared.names(policy, policy.model.paligemma_with_expert.paligemma, NAMES + OWN[kind])

    return [Canary(f"{kind} prefix", lambda: shared.prefix(*made(), 0)), Canary(f"{kind} names", keys)]


def canaries() -> Sequence[Canary]:
    return [canary for kind in OWN for canary in _of(kind)]
