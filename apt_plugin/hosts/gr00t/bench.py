"""The rows of `apt-plugin bench groot` in Isaac GR00T: random weights, forward and backward, no optimizer step.

    B batch   K noise draws

`python -m apt_plugin bench groot` takes this host where lerobot is not installed. LoRA has no row: the host knows no
adapters. Its VLM asks values of its inputs (image grids), so nothing here runs on the meta device.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from apt_plugin.backends.torch_bench import measure
from apt_plugin.backends.torch_groot_bench import stage_step
from apt_plugin.bench import Row, table, write
from apt_plugin.errors import AptError, choose
from apt_plugin.hosts.gr00t import register
from apt_plugin.recipe import Recipe

IMAGE, START, END, PATCHES = 5, 3, 4, 256  # special tokens of the bench's own vocabulary; 16 x 16 patches per camera
Made = tuple[Any, Callable[[], None]]


@dataclass(frozen=True)
class Size:
    """Widths are the real ones divided by `scale`; depths and token counts are real but in tiny."""

    scale: int
    layers: tuple[int, int, int, int] = (24, 16, 4, 32)  # vision, LLM, adapter, action transformer
    cameras: int = 2
    text: int = 30
    batch: int = 1


SIZES = {"tiny": Size(16, (3, 4, 2, 8)), "deep": Size(16, batch=2), "quarter": Size(4), "real": Size(1, batch=8)}


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


def config(size: Size, **more: Any) -> Any:
    """The host's config at these sizes; its VLM is not read from disk, see `random_vlm`."""
    from gr00t.configs.model.gr00t_n1d7 import Gr00tN1d7Config

    s, (_, llm, adapter, dit) = size.scale, size.layers
    block = {"positional_embeddings": None, "dropout": 0.2, "final_dropout": True}
    return Gr00tN1d7Config(
        backbone_embedding_dim=2048 // s, select_layer=llm, hidden_size=1024 // s, input_embedding_dim=1536 // s,
        max_state_dim=132, max_action_dim=132,
        diffusion_model_cfg={**block, "num_layers": dit, "num_attention_heads": 32 // s, "attention_head_dim": 48,
                             "norm_type": "ada_norm", "output_dim": 1024 // s, "interleave_self_attention": True},
        vl_self_attention_cfg={**block, "num_layers": adapter, "num_attention_heads": 32 // s,
                               "attention_head_dim": 64}, **more,
    )  # fmt: skip


class _Made:
    """Qwen3-VL of random weights where the host asks for pretrained ones."""

    def __init__(self, cls: Any, made: Any):
        self.cls, self.made = cls, made

    def from_pretrained(self, name: str, **kwargs: Any) -> Any:
        del name
        return self.cls._from_config(self.made, attn_implementation=kwargs.get("attn_implementation"))


@contextlib.contextmanager
def random_vlm(made: Any) -> Iterator[None]:
    """While active, the host builds its backbone from this config, and no tokenizer beside it."""
    from gr00t.model.gr00t_n1d7 import processing_gr00t_n1d7 as processing
    from gr00t.model.modules import qwen3_backbone

    vlm, collator = qwen3_backbone.Qwen3VLForConditionalGeneration, processing.Gr00tN1d7DataCollator
    qwen3_backbone.Qwen3VLForConditionalGeneration = _Made(vlm, made)
    processing.Gr00tN1d7DataCollator = lambda **_: None
    try:
        yield
    finally:
        qwen3_backbone.Qwen3VLForConditionalGeneration = vlm
        processing.Gr00tN1d7DataCollator = collator


@dataclass
class Bench:
    """Makes one row's model at a time, so that only one is in memory."""

    size: Size
    device: str

    def model(self, **more: Any) -> Any:
        from gr00t.model.gr00t_n1d7.gr00t_n1d7 import Gr00tN1d7

        torch.manual_seed(0)
        with random_vlm(vlm_config(self.size)):
            model = Gr00tN1d7(config(self.size, **more))
        for p in model.parameters():  # zero-initialised parts would cost the same; a non-finite one would not
            p.data.normal_(0, 0.02)
        return model.to(self.device).train()

    def apt(self, stage: int, **recipe: Any) -> Any:
        from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt

        made = Recipe(**{"gap_every": 0, **recipe})
        model = Gr00tN1d7Apt.convert(self.model(), made, stage)  # Stage 2 of random weights: no prior is needed here
        model.apt_train_as(model.config)
        return model.to(self.device)

    def inputs(self) -> dict[str, Any]:
        s = self.size
        picture = [START, *[IMAGE] * (PATCHES // 4), END]
        row = torch.tensor([*picture * s.cameras, *range(10, 10 + s.text)])
        made = {
            "input_ids": row.expand(s.batch, -1), "attention_mask": torch.ones(s.batch, len(row), dtype=torch.int64),
            "pixel_values": torch.rand(s.batch * s.cameras * PATCHES, 3 * 2 * 16 * 16),
            "image_grid_thw": torch.tensor([[1, 16, 16]]).expand(s.batch * s.cameras, -1),
            "state": torch.rand(s.batch, 1, 132), "action": torch.rand(s.batch, 40, 132),
            "action_mask": torch.ones(s.batch, 40, 132), "embodiment_id": torch.zeros(s.batch, dtype=torch.long),
        }  # fmt: skip
        return {name: value.to(self.device) for name, value in made.items()}

    # -- rows ---------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[Row, Callable[[], Made]]]:
        """(row, make); make() builds a model and gives it with its step, and fills in the row's floor."""

        def row(name: str, draws: int = 1, kind: str = "train") -> Row:
            return Row(name, kind, draws, self.size.batch)

        yield row("host, everything trained"), lambda: self.stock(True)
        yield row("host, frozen backbone"), lambda: self.stock(False)
        for draws in (1, 4, 8):
            yield (r := row(f"APT Stage 1, K={draws}", draws)), lambda r=r: self.stage(r, 1)
            yield (r := row(f"APT Stage 1, K={draws}, cache", draws)), lambda r=r: self.stage(r, 1, cached=True)
        yield (r := row("APT Stage 2, frozen VLM", 4)), lambda r=r: self.stage(r, 2)
        yield (r := row("APT Stage 2, frozen VLM, cache", 4)), lambda r=r: self.stage(r, 2, cached=True)
        yield (r := row("APT Stage 2, VLM trained", 4)), lambda r=r: self.stage(r, 2, vlm="full")
        yield row("host acting", kind="act"), lambda: self.acting(None)
        yield row("APT acting", kind="act"), lambda: self.acting(1.0)
        yield row("APT acting, guidance 1.5", kind="act"), lambda: self.acting(1.5)

    def stock(self, everything: bool) -> Made:
        model, inputs = self.model(tune_llm=everything, tune_visual=everything), self.inputs()
        return model, lambda: model(dict(inputs))["loss"].backward()

    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen") -> Made:
        model = self.apt(stage, noise_draws=row.draws, vlm=vlm)
        return model, stage_step(model, self.inputs(), row, cached, vlm == "frozen")

    def acting(self, scale: float | None) -> Made:
        model = (self.model() if scale is None else self.apt(2, guidance_scale=scale)).eval()
        inputs = {name: value for name, value in self.inputs().items() if not name.startswith("action")}

        def step() -> None:
            with torch.no_grad():
                model.get_action(dict(inputs))

        return model, step


def rows_of(
    size: str, device: str, rounds: int, batch: int | None = None, only: Callable[[Row], bool] = lambda row: True
) -> list[Row]:
    """Measure the rows.

    Raises:
        AptError: unknown size or device; the meta device.
    """
    chosen = SIZES[choose("size", size, SIZES)]
    if choose("device", device, ("cpu", "cuda", "meta")) == "meta":
        raise AptError("GR00T's VLM asks values of its inputs (image grids): write device cpu or cuda.")
    register()
    bench = Bench(chosen if batch is None else replace(chosen, batch=batch), device)
    out = []
    for row, make in bench.rows():
        if only(row):
            model, step = make()
            out.append(measure(row, model, step, device, rounds))
            logging.info("%s: %.3g GFLOP", row.name, row.flops / 1e9)
            del model, step
            gc.collect()
    return out


def run(size: str, device: str, rounds: int, batch: int | None, json: Path | None, plain: bool) -> int:
    """Print the table; write JSON and plot."""
    from rich.console import Console

    if device == "cuda" and not torch.cuda.is_available():
        raise AptError("device is 'cuda', and no GPU is at hand. Write cpu.")
    if device == "cpu" and os.environ.get("MALLOC_MMAP_THRESHOLD_") is None:
        # Freed memory must leave the process, or peaks hide in it.
        os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        os.execv(sys.executable, [sys.executable, "-m", "apt_plugin", *sys.argv[1:]])
    if device == "cpu":
        torch.set_num_threads(1)
    rows = rows_of(size, device, rounds, batch)
    facts = {"host": "Isaac GR00T", "model": "groot", "size": size, "device": device, "batch": rows[0].batch}
    facts |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    Console(width=None if not plain else 200).print(table(rows))
    if json is not None:
        write(rows, facts, json)
    return 0
