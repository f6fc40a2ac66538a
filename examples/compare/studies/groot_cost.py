"""What a Stage-1 step of GR00T N1.7 costs beside the host's own frozen step, in one run.

    python examples/compare/studies/groot_cost.py

lerobot's port of the model at a quarter of its widths and at its real depths (ViT 24, LLM 16 of 28, adapter 4, action
transformer 32), 2 images of 64 tokens, 27 text tokens, 40 actions, batch 2, float32, one thread, random weights;
forward and backward, no optimiser step. CPU time, rows interleaved, the best of the rounds. Trust ratios.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.groot.groot_n1_7 import GR00TN17, GR00TN17Config
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLConfig

from apt_plugin.backends.torch_groot import adapt, adapter_mask
from apt_plugin.backends.torch_groot_flow import GrootFlow, apt_class
from apt_plugin.recipe import Recipe

BATCH, CAMERAS, SIDE, WORDS = 2, 2, 256, 24
IMAGE, START, END, VOCAB = 37000, 37001, 37002, 37984


def vlm_folder(folder: Path) -> str:
    """Cosmos-Reason2-2B (a Qwen3-VL-2B) at a quarter of its widths; only its config.json is needed."""
    Qwen3VLConfig(
        text_config={
            "vocab_size": VOCAB, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 28,
            "head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
            "rope_theta": 5000000.0, "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 24, "hidden_size": 256, "intermediate_size": 1024, "num_heads": 4, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 512, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        image_token_id=IMAGE, video_token_id=VOCAB - 1, vision_start_token_id=START, vision_end_token_id=END,
        tie_word_embeddings=True,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def build(vlm: str) -> Any:
    block = {"positional_embeddings": None, "dropout": 0.2, "final_dropout": True}
    config = GR00TN17Config(
        model_name=vlm, model_dtype="float32", dtype="float32", backbone_embedding_dim=512, hidden_size=256,
        input_embedding_dim=384, max_num_embodiments=32,
        diffusion_model_cfg={**block, "num_layers": 32, "num_attention_heads": 8, "attention_head_dim": 48,
                             "norm_type": "ada_norm", "output_dim": 256, "interleave_self_attention": True},
        vl_self_attention_cfg={**block, "num_layers": 4, "num_attention_heads": 8, "attention_head_dim": 64},
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = GR00TN17(config, load_backbone_weights=False)
    model.backbone.model.tie_weights()
    model.backbone.set_trainable_parameters(tune_llm=False, tune_visual=False, tune_top_llm_layers=0)
    return model.train()


def inputs() -> dict[str, torch.Tensor]:
    """What the host's processor hands over: images first, then the text; no padding."""
    grid = SIDE // 16
    picture = [START, *[IMAGE] * (grid // 2) ** 2, END]
    prompt = torch.tensor([1, 2, 3, *picture * CAMERAS, *range(10, 10 + WORDS), 4, 5]).expand(BATCH, -1)
    return {
        "input_ids": prompt, "attention_mask": torch.ones_like(prompt),
        "pixel_values": torch.randn(BATCH * CAMERAS * grid**2, 3 * 2 * 16**2),
        "image_grid_thw": torch.tensor([[1, grid, grid]] * BATCH * CAMERAS),
        "state": torch.rand(BATCH, 1, 132), "action": torch.rand(BATCH, 40, 132),
        "action_mask": torch.ones(BATCH, 40, 132), "embodiment_id": torch.zeros(BATCH, dtype=torch.long),
    }  # fmt: skip


def host_rows(model: Any, batch: dict) -> dict[str, Callable[[], None]]:
    backbone, action = model.prepare_input(dict(batch))
    with torch.no_grad():
        given = model.backbone(dict(backbone))

    def forward() -> None:
        with torch.no_grad():
            model.backbone(dict(backbone))

    def head() -> None:
        model.action_head(type(given)(data=dict(given)), action)["loss"].backward()  # the host writes into it

    def step() -> None:
        model(dict(batch))["loss"].backward()

    return {"host: backbone": forward, "host: head, K=1": head, "host: frozen step, K=1": step}


class Ours:
    """The host's own model under the recipe, with its parts apart."""

    def __init__(self, model: Any, batch: dict):
        self.flow, self.batch = model, batch
        model.__class__ = apt_class(GrootFlow, type(model))
        model.apt_attach(Recipe(), 1)
        model.apt_set_trainable()
        self.backbone, self.action = model.prepare_input(dict(batch))

    def features(self) -> None:
        with torch.no_grad():
            self.flow.apt_features(self.backbone)

    def adapter(self, backward: bool) -> None:
        layout = self.flow.apt_layout(self.backbone["input_ids"], self.backbone["attention_mask"])
        states, head = torch.randn(*layout.tokens.shape, 512), self.flow.action_head
        with torch.set_grad_enabled(backward):
            out = adapt(head.vlln, head.vl_self_attention, states, adapter_mask(layout))
        if backward:
            out.square().mean().backward()

    def one_draw(self) -> None:
        """The action transformer with its encoders and decoder, on features that are given."""
        flow = self.flow
        with torch.no_grad():
            features, _ = flow.apt_features(self.backbone)
        features = replace(features, vl=features.vl.requires_grad_())
        state = flow.apt_state(self.action["state"], self.action["embodiment_id"])
        x, bucket = torch.randn(BATCH, 1, 40, 132), torch.full((BATCH, 1), 500)
        flow.apt_velocity(features, x, bucket, state, self.action["embodiment_id"]).square().mean().backward()

    def step(self, draws: int) -> None:
        flow = self.flow
        flow.apt_recipe = replace(flow.apt_recipe, noise_draws=draws)
        noise, at = flow.apt_draw(self.action["action"], 0)
        errors = flow.apt_errors(self.backbone, self.action, noise, at)
        (errors["loss"].sum() / errors["mask"].sum()).backward()

    def floor(self, draws: int) -> int:
        """Counted: backbone forward, adapter forward and backward, K times the head forward and backward."""
        prefix = flops(self.features)
        vlm = prefix - flops(lambda: self.adapter(False))
        return vlm + flops(lambda: self.adapter(True)) + draws * (flops(self.one_draw) - prefix)


def flops(step: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        vlm = vlm_folder(Path(folder))
        stock, flow = build(vlm), build(vlm)
    batch = inputs()
    ours = Ours(flow, batch)
    steps = host_rows(stock, batch)
    steps["Stage 1: backbone and adapter"] = ours.features
    steps |= {f"Stage 1: step, K={k}": lambda k=k: ours.step(k) for k in (1, 4, 8)}
    rows: dict[str, dict[str, float]] = {}
    for name, step in steps.items():
        draws = int(name.rpartition("K=")[2]) if "K=" in name else 0
        rows[name] = {"draws": draws, "gflop": flops(step) / 1e9, "seconds": float("inf")}
        if name.startswith("Stage 1: step"):
            rows[name]["of_floor"] = rows[name]["gflop"] * 1e9 / ours.floor(draws)
    for _ in range(args.rounds):
        for name, step in steps.items():
            for model in (stock, flow):
                model.zero_grad(set_to_none=True)
            begin = time.process_time()
            step()
            rows[name]["seconds"] = min(rows[name]["seconds"], time.process_time() - begin)
    frozen = rows["host: frozen step, K=1"]
    table = Table("", "GFLOP", "CPU s", "of the host's step", "per draw", "counted per draw", "of its floor")
    for name, row in rows.items():
        row["of_step"] = row["seconds"] / frozen["seconds"]
        cells = [f"{row['gflop']:.1f}", f"{row['seconds']:.2f}", f"{row['of_step']:.2f}", "", "", ""]
        if row["draws"] and "step" in name:
            row["per_draw"] = row["of_step"] / row["draws"]
            row["counted_per_draw"] = row["gflop"] / frozen["gflop"] / row["draws"]
            cells[3:5] = f"{row['per_draw']:.3f}", f"{row['counted_per_draw']:.3f}"
        if "of_floor" in row:
            cells[5] = f"{row['of_floor']:.3f}"
        table.add_row(name, *cells)
    Console(width=140).print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
