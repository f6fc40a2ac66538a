"""Floors of a GR00T step under the recipe, counted on the parts that any implementation has to run.

B batch   K noise draws   S prefix tokens   T action tokens   A action dimensions
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from apt_plugin.backends import torch_groot_cache
from apt_plugin.backends.torch_absent import Absent
from apt_plugin.backends.torch_bench import flops
from apt_plugin.backends.torch_cache import to_torch
from apt_plugin.backends.torch_groot import adapt, adapter_mask
from apt_plugin.backends.torch_groot_dit import Features
from apt_plugin.bench.table import Row


def stage_step(flow: Any, inputs: dict[str, Any], row: Row, cached: bool, frozen: bool) -> Callable[[], None]:
    """One training step of a model of ours; fills in the row's floor where the VLM is frozen.

    Args:
        inputs: the host's model inputs, action included.
        cached: features come from a cache, and the VLM leaves memory.
    """
    backbone, action = flow.prepare_input(dict(inputs))
    with torch.no_grad():
        once = flops(lambda: flow.apt_states(backbone))
        states, layout = flow.apt_states(backbone)
        features, _ = flow.apt_features(backbone)
    head = flow.action_head
    adapter = flops(
        lambda: adapt(head.vlln, head.vl_self_attention, states[0], adapter_mask(layout)).square().mean().backward()
    )
    one = flops(lambda: head_alone(flow, features, action))
    flow.zero_grad(set_to_none=True)
    if frozen:
        row.floor = adapter + row.draws * one + (0 if cached else once)
    if cached:
        backbone = {torch_groot_cache.FIELDS: fields_of(flow, backbone)}
        flow.backbone = Absent(flow.backbone.to("meta"))

    def step() -> None:
        noise, time = flow.apt_draw(action["action"], 0)
        errors = flow.apt_errors(backbone, action, noise, time)
        (errors["loss"].sum() / errors["mask"].sum()).backward()

    return step


def head_alone(flow: Any, features: Features, action: Any) -> None:
    """One draw's forward and backward pass of the action head on given features."""
    features = replace(features, vl=features.vl.detach().requires_grad_(), kv={})
    actions, who = action["action"], action["embodiment_id"]
    when = torch.zeros(actions.shape[0], 1, dtype=torch.int64, device=actions.device)
    state = flow.apt_state(action["state"], who)
    flow.apt_velocity(features, actions[:, None], when, state, who).square().mean().backward()


def fields_of(flow: Any, backbone: Any) -> dict[str, torch.Tensor]:
    """What a data loader gives in a cached run."""
    with torch.no_grad():
        entries, kinds = torch_groot_cache.encode(flow, backbone)
    out: dict[str, torch.Tensor] = {}
    device = next(flow.parameters()).device
    for name, kind in kinds.items():
        rows = [to_torch(entry[name], kind.dtype) for entry in entries]
        out[name] = torch.stack(rows).to(device)
        out[f"{name}.length"] = torch.tensor([len(row) for row in rows], device=device)
    return out
