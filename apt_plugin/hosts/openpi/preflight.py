"""What openpi tells about a training command before its first step; `apt_plugin.run.preflight` judges it.

Both stages' flags go through the host's own parser; of the data, metadata, statistics and numbers are read.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpi.transforms as transforms
from openpi.training import config as _config
from openpi.training import data_loader

from apt_plugin.backends import torch_device
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import derive
from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.mix import mixed
from apt_plugin.hosts.openpi.prompt import AptTokenizePrompt
from apt_plugin.recipe import Recipe
from apt_plugin.run import facts
from apt_plugin.run.preflight import Facts
from apt_plugin.stages import LIKELIHOOD, PRIOR

FLAGS = {
    "steps": "--num-train-steps", "warmup_steps": "--lr-schedule.warmup-steps", "data": "--data.repo-id",
    "decay_steps": "--lr-schedule.decay-steps", "token_limit": "--model.max-token-len",
    "state_fed": "--model.discrete-state-input", "checkpoints": "--keep-period", "output": "--checkpoint-base-dir",
}  # fmt: skip


def facts_of(stage: str, stock: Any, recipe: Recipe, torch: bool) -> dict[str, Any]:
    """A stage's facts as plain values, or under "refused" why there are none: a finished stage needs none.

    Args:
        torch: whether it is the PyTorch trainer's.
    """
    try:
        with facts.parsing(stage):
            return dataclasses.asdict(of(stage, stock, recipe, torch))
    except AptError as error:
        return {"refused": str(error)}


def own(stock: Any, torch: bool) -> Facts:
    """Of a config without our recipe: a prior whose prompts are read is the host's own model.

    Raises:
        AptError: data that the host cannot open.
    """
    with facts.parsing(""):
        return of(str(PRIOR), stock, Recipe(prefix="native"), torch)


def parsed(stage: str, flags: Sequence[str]) -> Any:
    """A stage's TrainConfig.

    Raises:
        AptError: flags that the host refuses.
    """
    with facts.parsing(stage, [sys.argv[0], *flags]):
        return _config.cli()


def of(stage: str, stock: Any, recipe: Recipe, torch: bool) -> Facts:
    """
    Args:
        stock: `parsed`. torch: whether it is the PyTorch trainer's, whose proofs run on the CPU.
    """
    model = apt_config(stock.model, int(stage), recipe)
    data = stock.data.create(stock.assets_dirs, model)
    schedule, folder = stock.lr_schedule, Path(stock.checkpoint_base_dir)
    more: dict[str, Any] = {"data": str(data.repo_id)}
    spoken = int(stage) == LIKELIHOOD or recipe.prefix == "native"  # else the prompts of Stage 1 are never read
    meta = (
        _metadata(data.repo_id, "--data.repo-id")
        if data.rlds_data_dir is None and data.repo_id not in (None, "fake")
        else None
    )
    texts = _texts(data, meta)
    if texts is not None:
        more |= facts.instructions(texts) | _longest(data, model, texts if spoken else [])
    if data.repo_id != "fake" and (int(stage) != LIKELIHOOD or recipe.norm_stats == "data"):  # else those of Stage 1
        names = ("q01", "q99") if data.use_quantile_norm else ("mean", "std")
        have = {column: vars(found) for column, found in (data.norm_stats or {}).items()}
        more |= facts.statistics(have, {"state": names, "actions": names})
    if meta is not None:
        # Statistics are of transformed numbers here: they cannot be compared with the columns.
        more |= {"not_finite": facts.of_numbers(_numbers(meta), {})["not_finite"], "frames": meta.total_frames}
        if int(stage) == LIKELIHOOD and recipe.mix.share > 0:
            mixed(data, recipe.mix)  # refuses what cannot be mixed
            name = recipe.mix.repo_id
            more = facts.mixed(more, name, _numbers(_metadata(name, "--apt.mix.repo_id")))
    weights = _weights(model)
    if torch:
        held = weights if stock.pytorch_training_precision == "bfloat16" else 2 * weights
    else:
        held = derive.held_bytes(model, derive.freeze_filter(model, stock.freeze_filter))
    return Facts(
        steps=stock.num_train_steps, warmup_steps=getattr(schedule, "warmup_steps", None),
        decay_steps=getattr(schedule, "decay_steps", None), batch_size=stock.batch_size,
        state_fed=not model.pi05 or model.discrete_state_input, checkpoint_bytes=weights,
        memory_needed=held // max(1, stock.fsdp_devices), memory_there=_device_memory(),
        proof_memory=held, proof_there=facts.machine_memory() if torch else None,
        checkpoints=_saved(stock), free_bytes=facts.free(folder),
        vlm=facts.vlm_of(stage, recipe) + _left(stage, stock.model, recipe),
        flags=FLAGS | {"statistics": f"scripts/compute_norm_stats.py --config-name {stock.name}"}, **more,
    )  # fmt: skip


def _left(stage: str, stock: Any, recipe: Recipe) -> str:
    """What LoRA trains beside its factors, and what a config names of it and a stage leaves as it is."""
    trains = int(stage) == LIKELIHOOD and recipe.vlm == "lora"
    left = "; with them trains the image encoder" if trains and not any("img" in one for one in recipe.freeze) else ""
    if "lora" in stock.paligemma_variant and not trains:
        how = " (Stage 2 trains them)" if recipe.vlm == "lora" else ": --apt.vlm lora trains them in Stage 2"
        left += f"; the LoRA factors of {stock.paligemma_variant} are not made{how}"
    if "lora" in stock.action_expert_variant:
        left += f"; of the action expert's language model {stock.action_expert_variant} trains LoRA factors alone"
    return left


def _metadata(name: str, flag: str) -> Any:
    try:
        return data_loader.lerobot_dataset.LeRobotDatasetMetadata(name)
    except Exception as error:
        raise AptError(
            f"there is no data set {flag} {name} that the host can open ({facts.first_line(error)}). It looks in "
            "HF_LEROBOT_HOME and on the hub."
        ) from error


def _numbers(meta: Any) -> dict[str, facts.Column]:
    columns = [name for name, column in meta.features.items() if column["dtype"].startswith("float")]
    return facts.numbers(sorted((Path(meta.root) / "data").rglob("*.parquet")), columns)


def _texts(data: Any, meta: Any) -> list[str] | None:
    """The instructions: of the task table, or the one prompt that every sample gets; None where neither is used."""
    if data.prompt_from_task and meta is not None:
        return [str(text) for text in (meta.tasks.values() if isinstance(meta.tasks, dict) else meta.tasks.index)]
    steps = (step for step in data.model_transforms.inputs if isinstance(step, transforms.InjectDefaultPrompt))
    return next(([str(step.prompt)] for step in steps if step.prompt is not None), None)


def _longest(data: Any, model: Any, texts: Sequence[str]) -> dict[str, Any]:
    step = next((step for step in data.model_transforms.inputs if isinstance(step, transforms.TokenizePrompt)), None)
    if step is None:
        return {}
    ours = AptTokenizePrompt(step.tokenizer, model.max_token_len, step.discrete_state_input, model.kept_tokens, True)
    state = (data.norm_stats or {}).get("state")
    width = model.action_dim if state is None else len(state.mean)
    return {"token_limit": model.max_token_len} | facts.longest(texts, lambda text: ours.longest(text, width))


def _weights(model: Any) -> int:
    """Bytes of the parameters as they are saved: bfloat16 at least."""
    return 2 * sum(math.prod(shape) for shape in derive.shapes_of(model).values())


def _device_memory() -> int | None:
    """Asked of PyTorch: JAX would take most of it for itself. None where JAX is told to stay on the CPU."""
    return None if os.environ.get("JAX_PLATFORMS", "").startswith("cpu") else torch_device.memory()


def _saved(stock: Any) -> int:
    """The host keeps the last one, and every `keep_period`-th."""
    return 1 + (stock.num_train_steps // stock.keep_period if stock.keep_period else 0)
