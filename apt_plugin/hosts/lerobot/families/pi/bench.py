"""The rows of `apt-plugin bench` for π0.5 and π0: random weights, forward and backward, no optimizer step.

B batch   K noise draws   L text tokens   T action tokens
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class

from apt_plugin.backends.torch_bench import flops
from apt_plugin.bench.rows import Made
from apt_plugin.bench.table import Row
from apt_plugin.hosts.lerobot.families.pi.absent import put_outline
from apt_plugin.hosts.lerobot.families.prefix_bench import PrefixBench
from apt_plugin.hosts.lerobot.groups import set_trainable
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from apt_plugin.recipe import Recipe


@dataclass(frozen=True)
class Size:
    """A model and what it is fed."""

    sizes: dict[str, int] | None  # None is the host's own
    side: int  # pixels of a camera
    cameras: int
    text: int  # L: tokens of the prompt, padding left out
    spoken: int  # of them the instruction
    chunk: int  # T
    batch: int
    dtype: str = "float32"


SIZES = {
    "tiny": Size(TINY, 28, 2, 24, 8, 5, 2),
    # A quarter of the widths, 6 of 18 layers, 12 x 12 image tokens per camera.
    "quarter": Size(
        {"vlm_width": 512, "vlm_mlp": 4096, "expert_width": 256, "expert_mlp": 1024, "depth": 6, "head_dim": 64,
         "kv_heads": 1, "vocab": 4096, "patch": 14, "vision_width": 288, "vision_mlp": 1076, "vision_depth": 7,
         "vision_heads": 4}, 168, 2, 100, 20, 25, 1,
    ),
    "real": Size(None, 224, 3, 64, 16, 50, 8, "bfloat16"),
}  # fmt: skip


@dataclass
class Bench(PrefixBench):
    """Makes one row's model at a time, so that only one is in memory."""

    family: str
    size: Size
    device: str
    checkpointing: bool = False

    def config(self, kind: str, **more: Any) -> Any:
        s = self.size
        return PreTrainedConfig.get_choice_class(kind)(
            **self.features(), image_resolution=(s.side, s.side),
            chunk_size=s.chunk, n_action_steps=s.chunk, device="cpu", push_to_hub=False, dtype=s.dtype,
            tokenizer_max_length=s.text, gradient_checkpointing=self.checkpointing, **more,
        )  # fmt: skip

    def policy(self, kind: str, stage: int = 1, **more: Any) -> Any:
        config = self.config(kind, **more)
        config.device = self.device
        torch.manual_seed(0)
        with torch.device(self.device):
            if not hasattr(config, "recipe"):
                with sized(self.size.sizes):
                    return get_policy_class(kind)(config).train()
            cls: Any = get_policy_class(config.type)
            policy = cls(config)
            if stage == 1:
                return policy.train()
            # A Stage 2 of random weights: the flow is built anew with its fusion, the policy around it stays.
            config.stage = 2
            config.train_expert_only = config.vlm_mode != "full"
            with sized(self.size.sizes):
                policy.model = cls.flow[1](config).to(config.device)
            set_trainable(policy, config)
        return policy.train()

    def ours(self, stage: int, recipe: Recipe) -> Any:
        return self.policy(f"{self.family}_apt", stage, recipe=recipe, sizes=self.size.sizes)

    def state(self) -> torch.Tensor | None:
        return super().state() if self.family == "pi0" else None

    def stock(self, everything: bool) -> Made:
        policy = self.policy(self.family, train_expert_only=not everything)
        images, masks, prompt, actions = self.inputs(True)
        state = self.state()
        args = (prompt.tokens, prompt.valid, *([] if state is None else [state]), actions)

        def step() -> None:
            policy.model.forward(images, masks, *args, *self.noise(None)).mean().backward()

        return policy, step

    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen") -> Made:
        policy = self.apt(stage, noise_draws=row.draws, vlm=vlm)
        images, masks, prompt, actions = self.inputs(stage == 2)
        state, prefix = self.state(), None
        flow = policy.model

        def expert(cache: Any) -> None:
            x, time = self.noise(1)
            flow.velocity(cache, x, time, state).square().mean().backward()

        with torch.no_grad():
            once = flops(lambda: flow.prefix(images, masks, prompt))
            prefix = flow.prefix(images, masks, prompt)
        one = flops(lambda: expert(prefix))
        policy.zero_grad(set_to_none=True)
        if vlm == "frozen":
            row.floor = row.draws * one + (0 if cached else once)
        if cached:
            put_outline(flow, "kv")
        elif vlm == "lora":
            policy = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA"})

        def step() -> None:
            error = flow.forward(images, masks, prompt, actions, *self.noise(row.draws), state, False,
                                 prefix if cached else None)  # fmt: skip
            error["loss"].mean().backward()

        return policy, step

    def acting(self, scale: float | None) -> Made:
        policy = self.policy(self.family) if scale is None else self.apt(2, guidance_scale=scale)
        images, masks, prompt, _ = self.inputs(True)
        state = self.state()
        policy.eval()
        noise, _ = self.noise(None)
        own = (prompt,) if scale is not None else (prompt.tokens, prompt.valid)
        given = {"noise": noise} if state is None else {"state": state, "noise": noise}

        def step() -> None:
            policy.model.sample_actions(images, masks, *own, **given)

        return policy, step


def smaller(size: Size, batch: int | None) -> Size:
    return size if batch is None else replace(size, batch=batch)
