"""The rows of `apt-plugin bench groot` in Isaac GR00T: random weights, forward and backward, no optimizer step.

    B batch   K noise draws

`python -m apt_plugin bench groot` takes this host where lerobot is not installed. LoRA has no row: the host knows no
adapters. Its VLM asks values of its inputs (image grids), so on the meta device only `--memory` runs, without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apt_plugin.backends.torch_bench import facts_of, measured, settle
from apt_plugin.backends.torch_groot_bench import (
    SIZES,
    Size,
    check_device,
    head_config,
    inputs,
    outlined,
    smaller,
    stage_step,
    vlm_config,
)
from apt_plugin.backends.torch_groot_robots import Robots
from apt_plugin.bench import Row, memory, show
from apt_plugin.bench.memory import OwnCommand, table
from apt_plugin.bench.rows import Made
from apt_plugin.bench.rows import rows_of as bench_rows
from apt_plugin.errors import choose
from apt_plugin.hosts.gr00t import register
from apt_plugin.recipe import Recipe


def config(size: Size, **more: Any) -> Any:
    """The host's config at these sizes; its VLM is not read from disk, see `random_vlm`."""
    from gr00t.configs.model.gr00t_n1d7 import Gr00tN1d7Config

    return Gr00tN1d7Config(**head_config(size), **more)


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
        made_on = torch.device("meta" if self.device == "meta" else "cpu")
        with random_vlm(vlm_config(self.size)), made_on:
            model = Gr00tN1d7(config(self.size, **more))
        for p in model.parameters():  # zero-initialised parts would cost the same; a non-finite one would not
            p.data.normal_(0, 0.02)
        return model.to(self.device).train()

    def apt(self, stage: int, **recipe: Any) -> Any:
        from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt

        made = Recipe(**{"gap_every": 0, "vlm": "frozen", **recipe})
        model = Gr00tN1d7Apt.convert(self.model(), made, stage)  # Stage 2 of random weights: no prior is needed here
        model.apt_train_as(model.config)
        Robots(model.action_head, [0])  # as a run of one robot's data
        if self.device == "meta":  # of what is published; elsewhere weights are random, and a step has no autocast
            model.apt_hold_exact()
        return model.to(self.device)

    def inputs(self) -> dict[str, Any]:
        return inputs(self.size, self.device, torch.long)

    def rows(self) -> Iterator[tuple[Row, Callable[[], Made]]]:
        """See `bench.rows`; no LoRA."""
        return bench_rows(self, self.size.batch, "frozen backbone", lora=False)

    def memory_rows(self) -> Iterator[tuple[Row, Callable[[], Made]]]:
        """See `bench.memory`: with the VLM frozen, as the host does it unless told otherwise, and trained."""
        commands = (
            OwnCommand("VLM frozen", lambda: self.stock(False), "frozen"),
            OwnCommand("--tune-llm --tune-visual", lambda: self.stock(True), "full"),
        )
        return memory.rows_of(commands, self.stage, self.size.batch)

    def stock(self, everything: bool) -> Made:
        model = self.model(tune_llm=everything, tune_visual=everything)
        if self.device == "meta":
            return model, outlined(model, self.size)
        given = self.inputs()
        return model, lambda: model(dict(given))["loss"].backward()

    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen") -> Made:
        model = self.apt(stage, noise_draws=row.draws, vlm=vlm)
        if self.device == "meta":
            return model, outlined(model, self.size, row.draws, words=stage == 2)
        return model, stage_step(model, self.inputs(), row, cached, vlm == "frozen")

    def acting(self, scale: float | None) -> Made:
        model = (self.model() if scale is None else self.apt(2, guidance_scale=scale)).eval()
        given = {name: value for name, value in self.inputs().items() if not name.startswith("action")}

        def step() -> None:
            with torch.no_grad():
                model.get_action(dict(given))

        return model, step


def rows_of(
    size: str, device: str, rounds: int, batch: int | None = None, only: Callable[[Row], bool] = lambda row: True,
    memory: bool = False,
) -> list[Row]:  # fmt: skip
    """Measure the rows; memory: those of `bench.memory`.

    Raises:
        AptError: unknown size or device; the meta device without memory.
    """
    chosen = smaller(SIZES[choose("size", size, SIZES)], batch)
    check_device(choose("device", device, ("cpu", "cuda", "meta")), memory)
    register()
    bench = Bench(chosen, device)
    return measured(bench.memory_rows() if memory else bench.rows(), device, rounds, only)


def run(size: str, device: str, rounds: int, batch: int | None, json: Path | None, plain: bool, memory: bool) -> int:
    """Print the table; write JSON and plot."""
    settle(device)
    rows = rows_of(size, device, rounds, batch, memory=memory)
    made = table if memory else None
    show(rows, {"host": "Isaac GR00T", "model": "groot", "size": size, **facts_of(device)}, json, plain, made)
    return 0
