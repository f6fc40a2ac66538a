"""What `apt-plugin bench` needs of GR00T N1.7 in each of its hosts: sizes, inputs, a step and its floor, counted on the
parts that any implementation has to run.

B batch   K noise draws   S prefix tokens   T action tokens   A action dimensions
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from apt_plugin.backends import torch_groot_cache
from apt_plugin.backends.torch_absent import Absent
from apt_plugin.backends.torch_bench import flops
from apt_plugin.backends.torch_bytes import to_torch
from apt_plugin.backends.torch_groot import Layout, adapt, adapter_mask
from apt_plugin.backends.torch_groot_dit import Features
from apt_plugin.bench.table import Row
from apt_plugin.errors import AptError

IMAGE, START, END, PATCHES = 5, 3, 4, 256  # special tokens of the bench's own vocabulary; 16 x 16 patches per camera


@dataclass(frozen=True)
class Size:
    """Widths are the real ones divided by `scale`; depths and token counts are real but in tiny."""

    scale: int
    layers: tuple[int, int, int, int] = (24, 16, 4, 32)  # vision, LLM, adapter, action transformer
    cameras: int = 2
    text: int = 30
    batch: int = 1


SIZES = {"tiny": Size(16, (3, 4, 2, 8)), "deep": Size(16, batch=2), "quarter": Size(4), "real": Size(1, batch=8)}


def smaller(size: Size, batch: int | None) -> Size:
    return size if batch is None else replace(size, batch=batch)


def vlm_config(size: Size) -> Any:
    """A Qwen3-VL of these sizes."""
    import transformers

    s, (vision, llm, _, _) = size.scale, size.layers
    head = max(128 // s, 16)
    third = head // 2 // 3
    make: Any = transformers.Qwen3VLConfig
    return make(
        text_config={
            "vocab_size": 151936 // s, "hidden_size": 2048 // s, "intermediate_size": 6144 // s,
            "num_hidden_layers": llm, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": head,
            "max_position_embeddings": 4096, "rope_theta": 5e6, "tie_word_embeddings": True,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True,
                             "mrope_section": [head // 2 - 2 * third, third, third]},
        },
        vision_config={
            "depth": vision, "hidden_size": 1024 // s, "intermediate_size": 4096 // s,
            "num_heads": 16 if s < 8 else 4, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "out_hidden_size": 2048 // s, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [vision // 4, vision // 2],
        },
        image_token_id=IMAGE, video_token_id=IMAGE + 1, vision_start_token_id=START, vision_end_token_id=END,
        tie_word_embeddings=True,
    )  # fmt: skip


def head_config(size: Size) -> dict[str, Any]:
    """Fields of the host's config that sizes decide."""
    s, (_, llm, adapter, dit) = size.scale, size.layers
    block = {"positional_embeddings": None, "dropout": 0.2, "final_dropout": True}
    return dict(
        backbone_embedding_dim=2048 // s, select_layer=llm, hidden_size=1024 // s, input_embedding_dim=1536 // s,
        max_state_dim=132, max_action_dim=132,
        diffusion_model_cfg={**block, "num_layers": dit, "num_attention_heads": 32 // s, "attention_head_dim": 48,
                             "norm_type": "ada_norm", "output_dim": 1024 // s, "interleave_self_attention": True},
        vl_self_attention_cfg={**block, "num_layers": adapter, "num_attention_heads": 32 // s,
                               "attention_head_dim": 64},
    )  # fmt: skip


def inputs(size: Size, device: str, embodiment: torch.dtype) -> dict[str, Any]:
    """The host's model inputs for one training step, random; the two hosts want another dtype for the embodiment."""
    picture = [START, *[IMAGE] * (PATCHES // 4), END]
    row = torch.tensor([*picture * size.cameras, *range(10, 10 + size.text)])
    batch, images = size.batch, size.batch * size.cameras
    made = {
        "input_ids": row.expand(batch, -1), "attention_mask": torch.ones(batch, len(row), dtype=torch.int64),
        "pixel_values": torch.rand(images * PATCHES, 3 * 2 * 16 * 16),
        "image_grid_thw": torch.tensor([[1, 16, 16]]).expand(images, -1),
        "state": torch.rand(batch, 1, 132), "action": torch.rand(batch, 40, 132),
        "action_mask": torch.ones(batch, 40, 132), "embodiment_id": torch.zeros(batch, dtype=embodiment),
    }  # fmt: skip
    return {name: value.to(device) for name, value in made.items()}


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


def check_device(device: str, memory: bool) -> None:
    """
    Raises:
        AptError: a model that would have to run where tensors hold no values; bytes that are asked for elsewhere.
    """
    if (device == "meta") != memory:
        raise AptError(
            "GR00T's VLM asks values of its inputs (image grids): write --device cpu or cuda; for --memory --device "
            "meta, where its pass is left out."
        )


def tokens_of(size: Size, words: bool) -> tuple[int, int]:
    """(tokens that the VLM gives, how many of them are images')."""
    images = size.cameras * PATCHES // 4
    return images + 2 * size.cameras + (size.text if words else 0), images


def outlined(model: Any, size: Size, draws: int | None = None, words: bool = True) -> Callable[[], None]:
    """One training step on a device that holds no values, where the VLM cannot run (it asks values of its inputs).

    Its features are made up and its gradients stand as they do at the end. What its own pass keeps is left out: it is
    the same whoever trains.

    Args:
        draws: K of a model of ours; None: the host's own.
    """
    from transformers import BatchFeature

    head, batch, (count, images) = model.action_head, size.batch, tokens_of(size, words)
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    with torch.device("meta"):
        states = torch.empty(batch, count, head.config.backbone_embedding_dim).requires_grad_(bool(trained))
        valid, image = torch.ones(batch, count, dtype=torch.bool), (torch.arange(count) < images).expand(batch, -1)
        actions, who = torch.empty(batch, 40, 132), torch.zeros(batch, dtype=torch.int32)

    def ours() -> torch.Tensor:
        layout = Layout(valid.long(), valid, image, image)
        vl = adapt(head.vlln, head.vl_self_attention, states, adapter_mask(layout))
        state = model.apt_state(torch.empty(batch, 1, 132), who)
        noise = torch.empty(batch, draws or 1, 40, 132)
        when = torch.zeros(batch, draws or 1, dtype=torch.int64)
        features = Features(vl, layout.image, layout.text)
        return (model.apt_velocity(features, noise, when, state, who) - actions[:, None]).square().mean()

    def theirs() -> torch.Tensor:
        told = {"backbone_features": states, "backbone_attention_mask": valid, "image_mask": image}
        mask = torch.ones(batch, 40, 132)
        acted = {"state": torch.empty(batch, 1, 132), "action": actions, "embodiment_id": who, "action_mask": mask}
        return head(BatchFeature(told), BatchFeature(acted))["loss"]

    def step() -> None:
        with torch.device("meta"):
            (theirs if draws is None else ours)().backward()
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)

    return step


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
