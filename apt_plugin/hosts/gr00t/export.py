"""A stock GR00T checkpoint from one of ours, where that is exact; file to file, without importing the host."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from apt_plugin import files, seal
from apt_plugin.backends.torch_groot_fold import fold
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.checkpoints import openable
from apt_plugin.hosts.gr00t.names import POLICIES, SEALED, WEIGHTS
from apt_plugin.stages import LIKELIHOOD, RECORD, Record, read_record

logger = logging.getLogger(__name__)

_HOST = next(iter(POLICIES))
_LEFT = {RECORD, WEIGHTS, "config.json", "trainer_state.json", "optimizer.pt", "scheduler.pt", "training_args.bin"}


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


def folded(checkpoint: Path, output: Path, every: int, prefix: str = "") -> dict[str, Tensor]:
    """The stock weights behind a checkpoint.

    Args:
        every: blocks from one text block to the next; prefix: in front of the host model's own names.

    Raises:
        AptError: folding would not be exact (with the reason), or `output` holds something already.
    """
    record = read_record(checkpoint)
    files.check_safetensors(checkpoint / WEIGHTS, record.weights)
    with safe_open(checkpoint / WEIGHTS, framework="pt") as file:
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


def export(checkpoint: Path, output: Path) -> None:
    """
    Args:
        checkpoint: a checkpoint folder, or a run: then its newest whole checkpoint.

    Raises:
        AptError: see `folded`; or no checkpoint there that can be opened.
    """
    checkpoint = openable(checkpoint)
    record = read_record(checkpoint)
    beside = [checkpoint, checkpoint / "processor"]
    seal.check(record.sealed, beside)
    config = json.loads((checkpoint / "config.json").read_text())
    state = folded(checkpoint, output, 2 * config.get("attend_text_every_n_blocks", 2))
    copy_beside(checkpoint, output, _LEFT)
    for name in SEALED:  # a finished run keeps its processor in a folder of its own
        if (source := beside[1] / name).is_file() and not (output / name).exists():
            shutil.copy2(source, output)
    config = {key: value for key, value in config.items() if not key.startswith("apt_")}
    files.write_json(output / "config.json", config | {"model_type": _HOST, "architectures": [_HOST]})
    save_file(state, output / WEIGHTS, {"format": "pt"})
    logger.info("APT: %s is a stock %s checkpoint now.", output, _HOST)
