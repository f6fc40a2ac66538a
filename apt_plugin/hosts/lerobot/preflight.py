"""What lerobot tells about a training command before its first step; `apt_plugin.run.preflight` judges it.

Both stages' flags go through the host's own parser and its own `validate`; of the data, metadata and numbers are read.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from apt_plugin.backends import torch_device
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import families, goals, written
from apt_plugin.hosts.lerobot.processors import PALIGEMMA, AptPromptStep
from apt_plugin.hosts.lerobot.programs import TRAIN
from apt_plugin.run import facts, preflight
from apt_plugin.run.flags import Flags
from apt_plugin.run.preflight import Facts
from apt_plugin.stages import LIKELIHOOD

FLAGS = {
    "steps": "--steps", "warmup_steps": "--policy.scheduler_warmup_steps", "data": "--dataset.repo_id",
    "decay_steps": "--policy.scheduler_decay_steps", "token_limit": "--policy.tokenizer_max_length",
    "checkpoints": "--save_freq", "output": "--output_dir", "precision": "--policy.dtype",
}  # fmt: skip
# What a mode of normalisation reads from a data set's statistics.
READS = {
    "MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"),
}  # fmt: skip


def main() -> None:
    """The child process."""
    facts.answer(lambda job, *asked: parsed(*asked), lambda job, stage, config: of(config, Path(job["output"])))


def native(stage: str) -> None:
    """The same in the host's own command, by the flags of this process; other programs are let be.

    Raises:
        AptError: what would stop the stage later.
    """
    if Path(sys.argv[0]).stem.replace("_", "-") != TRAIN or os.environ.get("RANK", "0") != "0":
        return
    preflight.stop({stage: here(stage)})


def here(stage: str) -> Facts:
    """Of the command that this process is; `stage` is "" of one without our recipe.

    Raises:
        AptError: flags that the host refuses.
    """
    name = "--output_dir"
    before = ["", *sys.argv[1:]]
    flags = [b for a, b in pairwise(before) if name not in (a, b) and not b.startswith(f"{name}=")]
    config = parsed(stage, flags)  # the host refuses a folder that its own logger may have made by now
    with facts.parsing(stage):
        return of(config, Path(Flags.read(sys.argv[1:], switches=True).get("output_dir") or "."))


def parsed(stage: str, flags: Sequence[str]) -> Any:
    """A stage's TrainPipelineConfig, validated by the host.

    Raises:
        AptError: flags that the host refuses.
    """
    from lerobot.configs import parser
    from lerobot.scripts import lerobot_train

    def whole(config: Any = None) -> Any:  # the parser fills it in
        config.validate()
        return config

    whole.__annotations__["config"] = lerobot_train.TrainPipelineConfig  # the host's parser asks for the class
    written.check_command(flags)
    with facts.parsing(stage, ["lerobot-train", *flags]):
        return parser.wrap()(whole)()


def of(config: Any, output: Path) -> Facts:
    """
    Args:
        config: `parsed`, of a policy of the host's own too; output: the run's folder.
    """
    policy, source = config.policy, config.dataset
    recipe = getattr(policy, "recipe", None)
    second = recipe is not None and policy.stage == LIKELIHOOD
    torch_device.check(str(policy.device or ""), "--policy.device")
    opened = {"revision": source.revision, "repo_type": source.repo_type}
    meta = _metadata(source.repo_id, source.root, "--dataset.repo_id", "--dataset.root", **opened)
    state, action = _columns(policy, meta, config.rename_map)
    texts = _texts(meta, source.episodes)
    steps = config.steps
    warmup, decay = _schedule(config.scheduler, steps)
    more: dict[str, Any] = {}
    if families.of(policy.type).prompt_steps:  # GR00T's prompt has no limit
        gathered = {"tokenizer_name": _tokenizer(policy), "goal": goals.wanted(policy)}
        step = AptPromptStep(family=families.host_type(policy.type), **gathered)
        width = int(math.prod(meta.features[state]["shape"]))
        more = facts.longest(texts, lambda text: step.longest(text, width)) | {
            "token_limit": policy.tokenizer_max_length
        }
    stats = meta.stats or {}
    own = not second or policy.recipe.norm_stats == "data"  # else those of Stage 1
    if own:
        modes = {str(kind).rpartition(".")[2]: mode.name for kind, mode in policy.normalization_mapping.items()}
        more |= facts.statistics(
            stats, {state: READS.get(modes.get("STATE", ""), ()), action: READS.get(modes.get("ACTION", ""), ())}
        )
    found = facts.numbers(_tables(meta), [state, action], source.episodes)
    more |= facts.of_numbers(found, stats if own and source.episodes is None else {})
    more["data"] = source.repo_id
    if second and (mix := policy.recipe.mix).share > 0:
        name = mix.repo_id or source.repo_id
        other = _metadata(name, mix.root or None, "--apt.mix.repo_id", "--apt.mix.root")
        more = facts.mixed(more, name, facts.numbers(_tables(other), [state, action]))
    count = _parameters(policy)
    weights = count * (2 if families.of(policy.type).half(policy) else 4) or None
    return Facts(
        steps=steps, warmup_steps=warmup, decay_steps=decay, batch_size=config.batch_size,
        frames=meta.total_frames, state_fed=True, checkpoint_bytes=weights,
        checkpoints=facts.saved(steps, config.save_freq) if config.save_checkpoint else 0,
        free_bytes=facts.free(output), memory_needed=weights, memory_there=torch_device.memory(str(policy.device)),
        proof_memory=weights,
        vlm=None if recipe is None else facts.vlm_of(str(policy.stage), recipe),
        flags=FLAGS | {"statistics": _how(source)}, **facts.instructions(texts), **more,
    )  # fmt: skip


def _tokenizer(policy: Any) -> str:
    """By whose name the host's own policies know it, ours tell it."""
    return getattr(policy, "tokenizer_name", None) or getattr(policy, "vlm_model_name", PALIGEMMA)


def _metadata(name: str, root: Any, flag: str, root_flag: str, **more: Any) -> Any:
    """
    Args:
        more: what else the host opens the data set with.
    """
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    try:
        return LeRobotDatasetMetadata(name, root=root, **more)
    except Exception as error:
        where = f" in {root_flag} {root}" if root else ""
        raise AptError(
            f"there is no data set {flag} {name}{where} that lerobot can open ({facts.first_line(error)})."
        ) from error


def _tables(meta: Any) -> list[Path]:
    return sorted((meta.root / "data").rglob("*.parquet"))


def _columns(policy: Any, meta: Any, renamed: Mapping[str, str]) -> tuple[str, str]:
    """The data's columns of the robot's state and of the actions."""
    have = {renamed.get(name, name): name for name in meta.features}
    for name in ("observation.state", "action"):
        if name not in have:
            raise AptError(
                f"{policy.type} reads {name}, and {meta.repo_id} has no such column, only "
                f"{', '.join(sorted(n for n in meta.features if '.' in n or n == 'action'))}. Say which is meant: "
                f'--rename_map=\'{{"<column>": "{name}"}}\'.'
            )
    return have["observation.state"], have["action"]


def _texts(meta: Any, episodes: Sequence[int] | None) -> list[str]:
    """The instructions of the episodes that are trained on; a set without annotation has none."""
    if meta.tasks is None:
        return []
    if episodes is None or meta.episodes is None or "tasks" not in meta.episodes.column_names:
        return [str(text) for text in meta.tasks.index]
    return sorted({str(text) for index in episodes for text in meta.episodes[index]["tasks"]})


def _schedule(scheduler: Any, steps: int) -> tuple[int | None, int | None]:
    """(warm-up, decay) in steps as they will be: the host shrinks both where training is shorter than the decay."""
    warmup, decay = (getattr(scheduler, name, None) for name in ("num_warmup_steps", "num_decay_steps"))
    if warmup is not None and decay is not None and steps < decay:
        return int(warmup * steps / decay), steps
    return warmup, decay


def _parameters(policy: Any) -> int:
    """Counted in the headers of the policy's base; 0 where that lies on the hub."""
    from apt_plugin.backends.torch_params import file_shapes

    folder = Path(policy.pretrained_path or "-")
    found = [file_shapes(path) for path in folder.glob("*.safetensors")] if folder.is_dir() else []
    return sum(math.prod(shape) for file in found for shape in file.values())


def _how(dataset: Any) -> str:
    root = f" --root={dataset.root}" if dataset.root else ""
    return f"python -m lerobot.scripts.augment_dataset_quantile_stats --repo-id={dataset.repo_id}{root}"
