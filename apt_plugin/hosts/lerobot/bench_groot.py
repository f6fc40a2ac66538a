"""The rows of `apt-plugin bench` for GR00T N1.7, and the bytes of a full-size Stage 1 spelt out.

    B batch   K noise draws   S prefix tokens   T action tokens   D feature width

Its VLM asks values of its inputs (image grids), so it cannot run on the meta device: `real` needs a GPU or much
patience, and `memory` counts the head there and adds the VLM by its shapes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from lerobot.policies.groot.groot_n1_7 import GR00TN17, GR00TN17Config

from apt_plugin.backends import torch_precision
from apt_plugin.backends.torch_absent import Absent
from apt_plugin.backends.torch_bench import flops
from apt_plugin.backends.torch_groot import Layout, adapt, adapter_mask
from apt_plugin.backends.torch_groot_dit import Features
from apt_plugin.backends.torch_groot_flow import apt_class
from apt_plugin.backends.torch_live import bytes_of, peak_of, standing
from apt_plugin.bench.rows import Made, rows_of
from apt_plugin.bench.table import Row
from apt_plugin.hosts.lerobot import cache, cache_groot
from apt_plugin.recipe import Recipe

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


def configs(size: Size, folder: Path) -> GR00TN17Config:
    """GR00T's config on a Qwen3-VL of these sizes, whose config is written to `folder`."""
    import transformers

    s, (vision, llm, adapter, dit) = size.scale, size.layers
    head = max(128 // s, 16)
    third = head // 2 // 3
    make: Any = transformers.Qwen3VLConfig
    make(
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
    ).save_pretrained(folder)  # fmt: skip
    block = {"positional_embeddings": None, "dropout": 0.2, "final_dropout": True}
    return GR00TN17Config(
        model_name=str(folder), model_dtype="float32", dtype="float32", backbone_embedding_dim=2048 // s,
        select_layer=llm, hidden_size=1024 // s, input_embedding_dim=1536 // s, max_state_dim=132, max_action_dim=132,
        diffusion_model_cfg={**block, "num_layers": dit, "num_attention_heads": 32 // s, "attention_head_dim": 48,
                             "norm_type": "ada_norm", "output_dim": 1024 // s, "interleave_self_attention": True},
        vl_self_attention_cfg={**block, "num_layers": adapter, "num_attention_heads": 32 // s,
                               "attention_head_dim": 64},
    )  # fmt: skip


@dataclass
class Bench:
    """Makes one row's model at a time from one raw checkpoint of random weights."""

    size: Size
    device: str
    _folder: Any = field(default_factory=lambda: tempfile.TemporaryDirectory(prefix="apt-bench-"))

    def __post_init__(self) -> None:
        root = Path(self._folder.name)
        (root / "vlm").mkdir()
        torch.manual_seed(0)
        model = GR00TN17(configs(self.size, root / "vlm"), load_backbone_weights=False)
        for p in model.parameters():  # zero-initialised parts would cost the same; a non-finite one would not
            p.data.normal_(0, 0.02)
        model.save_pretrained(root / "base")
        self.base = root / "base"

    def policy(self, kind: str, **more: Any) -> Any:
        cameras = {f"observation.images.{i}": PolicyFeature(FeatureType.VISUAL, (3, 256, 256)) for i in
                   range(self.size.cameras)}  # fmt: skip
        config = PreTrainedConfig.get_choice_class(kind)(
            input_features={**cameras, "observation.state": PolicyFeature(FeatureType.STATE, (8,))},
            output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))}, base_model_path=str(self.base),
            device=self.device, push_to_hub=False, use_bf16=self.device == "cuda", **more,
        )  # fmt: skip
        policy = get_policy_class(kind)(config)
        return policy.to(self.device).train()

    def inputs(self) -> dict[str, Any]:
        s = self.size
        picture = [START, *[IMAGE] * (PATCHES // 4), END]
        row = torch.tensor([*picture * s.cameras, *range(10, 10 + s.text)])
        made = {
            "input_ids": row.expand(s.batch, -1), "attention_mask": torch.ones(s.batch, len(row), dtype=torch.int64),
            "pixel_values": torch.rand(s.batch * s.cameras * PATCHES, 3 * 2 * 16 * 16),
            "image_grid_thw": torch.tensor([[1, 16, 16]]).expand(s.batch * s.cameras, -1),
            "state": torch.rand(s.batch, 1, 132), "action": torch.rand(s.batch, 40, 132),
            "action_mask": torch.ones(s.batch, 40, 132), "embodiment_id": torch.zeros(s.batch, dtype=torch.int32),
        }  # fmt: skip
        return {name: value.to(self.device) for name, value in made.items()}

    def rows(self) -> Iterator[tuple[Row, Callable[[], Made]]]:
        """See `bench.rows`."""
        return rows_of(self, self.size.batch, "frozen backbone")

    def stock(self, everything: bool) -> Made:
        policy = self.policy("groot", tune_llm=everything, tune_visual=everything)
        inputs = self.inputs()
        return policy, lambda: policy(dict(inputs))[0].backward()

    def apt(self, stage: int, **recipe: Any) -> Any:
        policy = self.policy("groot_apt", recipe=Recipe(**{"gap_every": 0, **recipe}))
        if stage == 2:  # of random weights: no Stage-1 result is needed to count what it costs
            policy.config.stage = 2
            policy.model.apt_attach(policy.config.recipe, 2)
            policy.model.apt_set_trainable()
        return policy

    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen") -> Made:
        policy = self.apt(stage, noise_draws=row.draws, vlm=vlm)
        flow, inputs = policy.model, self.inputs()
        backbone, action = flow.prepare_input(dict(inputs))
        with torch.no_grad():
            once = flops(lambda: flow.apt_states(backbone))
            states, layout = flow.apt_states(backbone)
            features, _ = flow.apt_features(backbone)
        head = flow.action_head
        adapter = flops(lambda: adapt(
            head.vlln, head.vl_self_attention, states[0], adapter_mask(layout)).square().mean().backward())  # fmt: skip
        one = flops(lambda: head_alone(flow, features, action))
        policy.zero_grad(set_to_none=True)
        if vlm == "frozen":
            row.floor = adapter + row.draws * one + (0 if cached else once)
        if cached:
            backbone = {cache_groot.FIELDS: fields_of(policy, inputs)}
            flow.backbone = Absent(flow.backbone.to("meta"))
        elif vlm == "lora":
            policy = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA"})

        def step() -> None:
            noise, time = flow.apt_draw(action["action"], 0)
            errors = flow.apt_errors(backbone, action, noise, time)
            (errors["loss"].sum() / errors["mask"].sum()).backward()

        return policy, step

    def acting(self, scale: float | None) -> Made:
        policy = self.policy("groot") if scale is None else self.apt(2, guidance_scale=scale)
        inputs = {name: value for name, value in self.inputs().items() if not name.startswith("action")}
        policy.eval()

        def step() -> None:
            with torch.no_grad():
                policy._groot_model.get_action(dict(inputs))

        return policy, step


def head_alone(flow: Any, features: Features, action: Any) -> None:
    """One draw's forward and backward pass of the action head on given features."""
    features = replace(features, vl=features.vl.detach().requires_grad_(), kv={})
    actions, who = action["action"], action["embodiment_id"]
    when = torch.zeros(actions.shape[0], 1, dtype=torch.int64, device=actions.device)
    state = flow.apt_state(action["state"], who)
    flow.apt_velocity(features, actions[:, None], when, state, who).square().mean().backward()


def fields_of(policy: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What a data loader gives in a cached run."""
    with torch.no_grad():
        entries, kinds = cache_groot.encode(policy, inputs)
    out: dict[str, torch.Tensor] = {}
    for name, kind in kinds.items():
        rows = [cache.to_torch(entry[name], kind.dtype) for entry in entries]
        out[name] = torch.stack(rows).to(policy.config.device)
        out[f"{name}.length"] = torch.tensor([len(row) for row in rows], device=policy.config.device)
    return out


# -- memory at full size ----------------------------------------------------------------------------------


def memory(batch: int, draws: int, fp32: bool = False, cached: bool = False) -> dict[str, int]:
    """Bytes of a full-size Stage-1 step as `groot_apt` holds it, part by part; counted on the meta device, but for the
    VLM's own pass.

    Args:
        fp32: `policy.model_params_fp32`: the head in float32, the host's default. The VLM is held in bfloat16 either
            way.
    """
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        config = configs(SIZES["real"], Path(folder))
        model: Any = GR00TN17(config, load_backbone_weights=False)
        model = model.to(torch.float32).train()
        model.__class__ = apt_class(cache_groot.CachedGrootFlow, type(model))
        model.apt_attach(Recipe(noise_draws=draws), 1)
        model.apt_set_trainable()
        # All activations as if in float32: more than under bfloat16 autocast, which leaves the norms' in float32.
        activations = _head_step(model, batch, draws) - standing(model)["trained weights"]
        torch_precision.hold_frozen(model.backbone)
        if not fp32:
            torch_precision.hold_trained(model.action_head)
        parts = standing(model)
        if cached:
            parts["frozen weights"] -= bytes_of(model.backbone.parameters())
        parts["gradients"], parts["activations"] = parts["trained weights"], activations
    # The VLM keeps nothing for a backward pass. At most one block's intermediate tensors stand at a time, here all of
    # them counted as if none were freed: vision tokens x (stream, norm, qkv, scores' output, MLP twice).
    patches, tokens = batch * 2 * PATCHES, 2 * PATCHES // 4 + 4
    vision = patches * (2 * 1024 + 3 * 1024 + 2 * 1024 + 2 * 4096) * 2 + batch * 2 * 16 * PATCHES**2 * 4
    llm = batch * tokens * (2 * 2048 + 4096 + 2 * 2048 + 3 * 6144) * 2 + batch * 16 * tokens**2 * 4
    parts["VLM: one block in flight"] = 0 if cached else max(vision, llm)
    parts["total"] = sum(parts.values())
    return parts


def _head_step(model: Any, batch: int, draws: int) -> int:
    """Bytes at the peak of the head's forward and backward pass, gradients included."""
    head, tokens = model.action_head, 2 * PATCHES // 4 + 4
    states = torch.empty(batch, tokens, 2048)
    seen = torch.ones(batch, tokens, dtype=torch.bool)
    layout = Layout(seen.long(), seen, seen, seen)
    x, when = torch.empty(batch, draws, 40, 132), torch.zeros(batch, draws, dtype=torch.int64)
    who = torch.zeros(batch, dtype=torch.int32)

    def step() -> None:
        vl = adapt(head.vlln, head.vl_self_attention, states, adapter_mask(layout))
        state = model.apt_state(torch.empty(batch, 1, 132), who)
        features = Features(vl, layout.image, layout.text)
        model.apt_velocity(features, x, when, state, who).square().mean().backward()

    return peak_of(head, step)
