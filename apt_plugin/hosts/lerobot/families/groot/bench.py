"""The rows of `apt-plugin bench` for GR00T N1.7, and the bytes of a full-size Stage 1 spelt out.

    B batch   K noise draws   S prefix tokens   T action tokens   D feature width

Its VLM asks values of its inputs (image grids), so it cannot run on the meta device: `real` needs a GPU or much
patience, and `memory` counts the head there and adds the VLM by its shapes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from lerobot.policies.groot.groot_n1_7 import GR00TN17, GR00TN17Config

from apt_plugin.backends import torch_precision
from apt_plugin.backends.torch_groot_bench import (
    PATCHES,
    SIZES,
    Size,
    head_config,
    inputs,
    outlined,
    smaller,
    stage_step,
    tokens_of,
    vlm_config,
)
from apt_plugin.backends.torch_groot_cache import CachedGrootFlow
from apt_plugin.backends.torch_groot_flow import apt_class
from apt_plugin.backends.torch_live import bytes_of, peak_of, standing
from apt_plugin.bench.memory import OwnCommand
from apt_plugin.bench.memory import rows_of as memory_rows
from apt_plugin.bench.rows import Made, rows_of
from apt_plugin.bench.table import Row
from apt_plugin.recipe import Recipe


def configs(size: Size, folder: Path) -> GR00TN17Config:
    """GR00T's config on a Qwen3-VL of these sizes, whose config is written to `folder`."""
    vlm_config(size).save_pretrained(folder)
    return GR00TN17Config(model_name=str(folder), model_dtype="float32", dtype="float32", **head_config(size))


@dataclass
class Bench:
    """Makes one row's model at a time from one raw checkpoint of random weights."""

    size: Size
    device: str
    _folder: Any = field(default_factory=lambda: tempfile.TemporaryDirectory(prefix="apt-bench-"))

    def __post_init__(self) -> None:
        if self.device == "meta":
            return
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
        return inputs(self.size, self.device, torch.int32)

    def rows(self) -> Iterator[tuple[Row, Callable[[], Made]]]:
        """See `bench.rows`."""
        return rows_of(self, self.size.batch, "frozen backbone")

    def memory_rows(self) -> Iterator[tuple[Row, Callable[[], Made]]]:
        """See `bench.memory`: lerobot's own command freezes the VLM; each model as its policy holds it."""
        frozen = OwnCommand("VLM frozen", lambda: held(self.size), "frozen")
        return memory_rows([frozen], lambda row, stage, **_: held(self.size, stage, row.draws), self.size.batch)

    def stock(self, everything: bool) -> Made:
        policy = self.policy("groot", tune_llm=everything, tune_visual=everything)
        given = self.inputs()
        return policy, lambda: policy(dict(given))[0].backward()

    def apt(self, stage: int, **recipe: Any) -> Any:
        policy = self.policy("groot_apt", recipe=Recipe(**{"gap_every": 0, "vlm": "frozen", **recipe}))
        if stage == 2:  # of random weights: no Stage-1 result is needed to count what it costs
            policy.config.stage = 2
            policy.model.apt_attach(policy.config.recipe, 2)
            policy.model.apt_set_trainable()
        return policy

    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen") -> Made:
        policy = self.apt(stage, noise_draws=row.draws, vlm=vlm)
        step = stage_step(policy.model, self.inputs(), row, cached, vlm == "frozen")
        if vlm == "lora":
            policy = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA"})
        return policy, step

    def acting(self, scale: float | None) -> Made:
        policy = self.policy("groot") if scale is None else self.apt(2, guidance_scale=scale)
        given = {name: value for name, value in self.inputs().items() if not name.startswith("action")}
        policy.eval()

        def step() -> None:
            with torch.no_grad():
                policy._groot_model.get_action(dict(given))

        return policy, step


# -- memory at full size ----------------------------------------------------------------------------------


def outline(size: Size, stage: int = 0, draws: int = 1) -> Any:
    """A model without values: the host's own (stage 0) or one of ours, in float32, its VLM frozen."""
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        model: Any = GR00TN17(configs(size, Path(folder)), load_backbone_weights=False)
        model = model.to(torch.float32).train()
        if stage:
            model.__class__ = apt_class(CachedGrootFlow, type(model))
            model.apt_attach(Recipe(noise_draws=draws, vlm="frozen"), stage)
            model.apt_set_trainable()
        else:
            model.backbone.set_trainable_parameters(False, False)
        return model


def held(size: Size, stage: int = 0, draws: int = 1) -> Made:
    """A model in the dtypes in which its policy holds it, and a step that lets its activations stand once.

    Activations are counted as if in float32: more than under bfloat16 autocast, which leaves the norms' in float32.
    The host holds all in float32 (`policy.model_params_fp32`); ours the VLM and the head's matrices in bfloat16.
    """
    model = outline(size, stage, draws)
    run = outlined(model, size, draws if stage else None, words=stage != 1)
    kept = peak_of(model, run) - bytes_of(p for p in model.parameters() if p.requires_grad)
    model.zero_grad(set_to_none=True)
    if stage:
        torch_precision.hold_frozen(model.backbone)
        torch_precision.hold_trained(model.action_head)
    trained = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        torch.empty(kept, dtype=torch.uint8, device="meta")

    return model, step


def memory(batch: int, draws: int, fp32: bool = False, cached: bool = False) -> dict[str, int]:
    """Bytes of a full-size Stage-1 step as `groot_apt` holds it, part by part; counted on the meta device, but for the
    VLM's own pass.

    Args:
        fp32: `policy.model_params_fp32`: the head in float32, the host's default. The VLM is held in bfloat16 either
            way.
    """
    model = outline(SIZES["real"], 1, draws)
    # All activations as if in float32: more than under bfloat16 autocast, which leaves the norms' in float32.
    step = outlined(model, smaller(SIZES["real"], batch), draws, words=False)
    activations = peak_of(model.action_head, step) - standing(model)["trained weights"]
    torch_precision.hold_frozen(model.backbone)
    if not fp32:
        torch_precision.hold_trained(model.action_head)
    parts = standing(model)
    if cached:
        parts["frozen weights"] -= bytes_of(model.backbone.parameters())
    parts["gradients"], parts["activations"] = parts["trained weights"], activations
    # The VLM keeps nothing for a backward pass. At most one block's intermediate tensors stand at a time, here all of
    # them counted as if none were freed: vision tokens x (stream, norm, qkv, scores' output, MLP twice).
    patches, tokens = batch * 2 * PATCHES, tokens_of(SIZES["real"], words=False)[0]
    vision = patches * (2 * 1024 + 3 * 1024 + 2 * 1024 + 2 * 4096) * 2 + batch * 2 * 16 * PATCHES**2 * 4
    llm = batch * tokens * (2 * 2048 + 4096 + 2 * 2048 + 3 * 6144) * 2 + batch * 16 * tokens**2 * 4
    parts["VLM: one block in flight"] = 0 if cached else max(vision, llm)
    parts["total"] = sum(parts.values())
    return parts
