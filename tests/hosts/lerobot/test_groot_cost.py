"""What a Stage-1 step costs: counted matrix products, at the public depths, on meta sizes small enough for a CPU.

    K noise draws

Counted, not timed: torch's own FLOP counter over forward and backward, so that a busy machine cannot move it.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("lerobot", reason="lerobot is not installed: its models cannot run")

from tests.hosts.lerobot import tiny_groot as tiny

LIMIT = 1.05  # of the floor: backbone forward, adapter once, K head passes forward and backward


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    with tiny.home(tmp_path_factory) as (root, vlm):
        yield tiny.base(root / "base", vlm, adapter=4, dit=32, select=5)


def flops(step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def test_stage1_step_against_its_floor_and_the_host(where, figure):
    words = ["pick up the red cup and put it on the plate"] * 2
    stock = tiny.stock(where).train()
    for name, p in stock.named_parameters():
        p.requires_grad_(".backbone." not in name)
    inputs = tiny.batch(stock, words)
    host = flops(lambda: stock(inputs)[0].backward())
    rows = {"host, frozen backbone, K=1": host}
    for draws in (1, 4, 8):
        policy = tiny.stage1(where, {"noise_draws": draws}).train()
        flow = policy.model
        backbone, action = flow.prepare_input(policy._filter_groot_inputs(inputs, include_action=True))
        noise, time = flow.apt_draw(action["action"], 0)
        with torch.no_grad():
            prefix = flops(lambda f=flow, b=backbone: f.apt_features(b))
            features, _ = flow.apt_features(backbone)
        vlm_only = prefix - flops(lambda f=flow, b=backbone: adapter_alone(f, b))
        # The floor: the VLM forward, the adapter forward and backward, and K times one draw's head on given features.
        adapter = flops(lambda f=flow, b=backbone: adapter_alone(f, b).square().mean().backward())
        one = flops(lambda f=flow, x=features, a=action, n=noise, t=time: head_alone(f, x, a, n[:, :1], t[:, :1]))
        floor = vlm_only + adapter + draws * one
        real = flops(lambda p=policy: p(inputs)[0].backward())
        rows[f"Stage 1, K={draws}"] = real
        rows[f"  per draw, K={draws}"] = real / draws
        assert real <= LIMIT * floor, (real, floor)
        rows[f"  of its floor, K={draws}"] = real / floor * host  # printed as a ratio to the host below
    figure("; ".join(f"{name.strip()} {value / host:.3f}" for name, value in rows.items()))
    assert rows["  per draw, K=4"] < 0.49 * host  # what repeating the host's whole head four times gives


def adapter_alone(flow, backbone):
    from apt_plugin.backends.torch_groot import adapt, adapter_mask

    layout = flow.apt_layout(backbone["input_ids"], backbone["attention_mask"])
    states = torch.randn(*layout.tokens.shape, 32)
    head = flow.action_head
    return adapt(head.vlln, head.vl_self_attention, states, adapter_mask(layout))


def head_alone(flow, features, action, noise, time):
    from dataclasses import replace

    features = replace(features, vl=features.vl.detach().requires_grad_(), kv={})
    head, embodiment = flow.action_head, action["embodiment_id"]
    state = flow.apt_state(action["state"], embodiment)
    bucket = (time * head.num_timestep_buckets).long()
    flow.apt_velocity(features, noise, bucket, state, embodiment).square().mean().backward()
