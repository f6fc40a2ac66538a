"""What Isaac GR00T tells about a training command before its first step; `apt_plugin.run.preflight` judges it.

Both stages' flags go through the host's own parser. The host computes missing statistics by itself, and its prompt has
no limit: nothing is said about these.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from apt_plugin import files
from apt_plugin.backends import torch_device, torch_params
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import data
from apt_plugin.hosts.gr00t.names import TRAIN
from apt_plugin.hosts.gr00t.programs import TRAINING
from apt_plugin.recipe import Recipe, flatten, from_flat
from apt_plugin.run import facts, preflight
from apt_plugin.run.preflight import Facts
from apt_plugin.stages import LIKELIHOOD, PRIOR

COLUMNS = ("observation.state", "action")
STATISTICS = "stats.json"


class Asked(NamedTuple):
    """What both training programs of the host say, in the words of one."""

    training: Any  # max_steps, warmup_ratio, global_batch_size, save_steps, save_total_limit
    sets: list[str]
    state_dropout: float  # at 1 no sample holds the robot's state
    base: str | None


def main() -> None:
    """The child process."""

    def facts_of(job: facts.Job, stage: str, asked: Asked) -> Facts:
        return of(stage, asked, job["module"], from_flat(flatten(job["recipe"])), Path(job["output"]))

    facts.answer(lambda job, stage, flags: parsed(stage, job["module"], flags), facts_of)


def native(module: str, stage: str, recipe: Recipe, flags: Sequence[str]) -> None:
    """The same in the host's own command.

    Args:
        flags: of this process, without ours.

    Raises:
        AptError: what would stop the stage later.
    """
    if os.environ.get("RANK", "0") != "0":  # one process looks for all
        return
    asked = parsed(stage, module, flags)
    with facts.parsing(stage):
        gathered = of(stage, asked, module, recipe, Path(asked.training.output_dir))
    preflight.stop({stage: dataclasses.replace(gathered, vlm=None)})  # what trains of it is settled later


def own(module: str, flags: Sequence[str]) -> Facts:
    """Of a command without our recipe.

    Raises:
        AptError: flags that the host refuses, a folder that is no data set.
    """
    asked = parsed("", module, flags)
    with facts.parsing(""):
        return of(str(PRIOR), asked, module, Recipe(), Path(asked.training.output_dir))


def parsed(stage: str, module: str, flags: Sequence[str]) -> Asked:
    """A stage's settings.

    Raises:
        AptError: flags that the host refuses.
    """
    with facts.parsing(stage, [module, *flags]):
        return _finetune() if module == TRAIN else _mixture()


def _finetune() -> Asked:
    from gr00t.configs.finetune_config import FinetuneConfig
    from gr00t.data.embodiment_tags import EmbodimentTag

    config = tyro.cli(FinetuneConfig)
    EmbodimentTag.resolve(config.embodiment_tag)  # refuses a tag that it does not know
    if config.modality_config_path is not None and not Path(config.modality_config_path).is_file():
        raise AptError(f"--modality-config-path {config.modality_config_path}: there is no such file.")
    sets = [path for path in config.dataset_path.split(os.pathsep) if path]
    return Asked(config, sets, config.state_dropout_prob, config.base_model_path)


def _mixture() -> Asked:
    from gr00t.configs.base_config import Config, get_default_config

    config = tyro.cli(Config, default=get_default_config())
    if config.load_config_path:  # as the host's script does it
        config = config.load(Path(config.load_config_path))
        config.load_config_path = None
        config = tyro.cli(Config, default=config)
    sets = [path for one in config.data.datasets for path in one.dataset_paths]
    return Asked(config.training, sets, config.model.state_dropout_prob, config.training.start_from_checkpoint)


def of(stage: str, asked: Asked, module: str, recipe: Recipe, output: Path) -> Facts:
    """
    Args:
        asked: `parsed`; output: the run's folder.

    Raises:
        AptError: a folder that is no data set.
    """
    blank = [recipe.mix.root] if int(stage) == LIKELIHOOD and recipe.mix.share > 0 else []
    sets = [*asked.sets, *blank]
    data.check_sets(sets)
    training, steps = asked.training, asked.training.max_steps
    weights, parameters = _weights(asked.base)
    texts = [text for path in asked.sets for text in data.tasks(Path(path))]
    tables = [file for path in sets for file in sorted((Path(path) / "data").rglob("*.parquet"))]
    broken = tuple(f"{path}: {what}" for path in asked.sets for what in _broken_statistics(Path(path)))
    return Facts(
        steps=steps, warmup_steps=getattr(training, "warmup_steps", 0) or math.ceil(training.warmup_ratio * steps),
        batch_size=training.global_batch_size, data=os.pathsep.join(sets),
        frames=sum(_frames(Path(path)) for path in asked.sets), state_fed=asked.state_dropout < 1,
        statistics_not_finite=broken, checkpoint_bytes=weights,
        memory_needed=weights, memory_there=torch_device.memory(),
        proof_memory=4 * parameters or None, proof_there=facts.machine_memory(),  # in float32 as it trains, on the CPU
        checkpoints=facts.saved(steps, training.save_steps, training.save_total_limit),
        free_bytes=facts.free(output), vlm=facts.vlm_of(stage, recipe), flags=flags(module),
        not_finite=facts.of_numbers(facts.numbers(tables, COLUMNS), {})["not_finite"], **facts.instructions(texts),
    )  # fmt: skip


def flags(module: str) -> dict[str, str]:
    """Fact -> the flag of one of the two programs."""
    front = f"--{TRAINING[module].prefix}"
    return {
        "steps": f"{front}max-steps", "warmup_steps": f"{front}warmup-ratio", "checkpoints": f"{front}save-total-limit",
        "output": f"{front}output-dir", "data": "--dataset-path" if module == TRAIN else "--load-config-path",
        "state_fed": "--state-dropout-prob below 1" if module == TRAIN else "--model.state-dropout-prob below 1",
        "statistics": f"remove meta/{STATISTICS}, and the host writes it anew",
    }  # fmt: skip


def _broken_statistics(folder: Path) -> list[str]:
    """Those that the host wrote earlier; it computes what is missing."""
    path = folder / "meta" / STATISTICS
    gathered = files.read_json(path) if path.is_file() else {}
    wanted = {name: tuple(gathered[name]) for name in COLUMNS if name in gathered}
    return facts.statistics(gathered, wanted)["statistics_not_finite"]


def _frames(folder: Path) -> int:
    return int(files.read_json(folder / "meta" / "info.json").get("total_frames", 1))


def _weights(base: str | None) -> tuple[int | None, int]:
    """(bytes of the base's files, its parameters); None and 0 where it lies on the hub."""
    found = list(Path(base or "-").glob("*.safetensors"))
    count = sum(math.prod(shape) for path in found for shape in torch_params.file_shapes(path).values())
    return sum(path.stat().st_size for path in found) or None, count
