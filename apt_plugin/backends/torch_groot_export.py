"""The stock weights behind a GR00T checkpoint of ours, where folding is exact; file to file, on any host."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from apt_plugin import files
from apt_plugin.backends.torch_groot_fold import fold
from apt_plugin.errors import AptError
from apt_plugin.stages import LIKELIHOOD, Record, read_record

logger = logging.getLogger(__name__)


def why_not(record: Record, has_adapter: bool) -> str | None:
    """Why a checkpoint cannot be folded; None when it can."""
    recipe = record.recipe
    if record.stage != LIKELIHOOD:
        return "Stage 1 has its text blocks off and listens to nothing; train Stage 2"
    if recipe.fusion.kind != "host":
        return "interleaved fusion adds layers, and a stock GR00T has no place for them"
    if recipe.guidance_scale != 1:
        return f"guidance_scale is {recipe.guidance_scale}, which needs the prior beside the policy at every step"
    if recipe.prefix == "isolated" and has_adapter:
        return (
            "it was trained behind an isolated adapter (vl_self_attention), and a stock GR00T runs that adapter "
            "unmasked, so that image tokens would read the words and the padding. For a foldable checkpoint train with "
            "--apt.prefix native --apt.fusion.kind host (its leak is stated in examples/gr00t.md)"
        )
    return None


def folded(checkpoint: Path, output: Path, every: int, weights: str, prefix: str = "") -> dict[str, Tensor]:
    """The stock weights behind a checkpoint.

    Args:
        every: blocks from one text block to the next; weights: the name of their file.
        prefix: in front of the host model's own names.

    Raises:
        AptError: folding would not be exact (with the reason), or `output` holds something already.
    """
    record = read_record(checkpoint)
    files.check_safetensors(checkpoint / weights, record.weights)
    with safe_open(checkpoint / weights, framework="pt") as file:
        names = list(file.keys())
        if (why := why_not(record, any(".vl_self_attention." in name for name in names))) is not None:
            raise AptError(f"{checkpoint} cannot be exported: {why}. It is served with the plugin installed.")
        if output.exists() and any(output.iterdir()):
            raise AptError(f"{output} is not empty; name a new folder.")
        state = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    stock = fold(state, record.recipe.fusion, every)
    logger.info("APT: %d gates folded.", len(state) - len(stock))
    if record.recipe.prefix == "native":
        logger.info("APT: trained on the host's own adapter: in it image tokens read the instruction, ungated.")
    return {prefix + name: tensor for name, tensor in stock.items()}


def copy_beside(checkpoint: Path, output: Path, left: set[str]) -> None:
    """Everything of the checkpoint that is the host's own: processors, statistics."""
    output.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        if path.is_file() and path.name not in left and not path.name.startswith("rng_state"):
            shutil.copy2(path, output)
