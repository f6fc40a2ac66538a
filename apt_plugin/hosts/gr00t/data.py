"""Where language enters in Isaac GR00T, and data without any.

The processor's `_apply_vlm_processing` is the one place that training and inference share. Stage 1 gives it a constant
prompt: belt and braces beside the model, which leaves the words out by itself, and the rule that a prior trained on
the host's unmasked adapter (prefix=native) stands on alone. The change sits on the object, so nothing blind is saved.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.recipe import Mix
from apt_plugin.run.replace import Replacements

logger = logging.getLogger(__name__)

CONSTANT = ""  # an empty instruction: the chat template's own tokens remain
_INSTALLED = Replacements()


def _constant_prompt(host: Any, images: Any, language: str) -> Any:
    return host(images, CONSTANT)


def blind(processor: Any) -> None:
    """Give every sample of this processor object the constant prompt."""
    if "_apply_vlm_processing" not in vars(processor):
        processor._apply_vlm_processing = functools.partial(_constant_prompt, processor._apply_vlm_processing)


def sighted(processor: Any) -> None:
    """Take `blind` back."""
    vars(processor).pop("_apply_vlm_processing", None)


def check_words(paths: Iterable[str]) -> None:
    """Stage 2 learns from instructions: refuse data without any before a model is built.

    Raises:
        AptError: naming the folders.
    """
    bare = [str(path) for path in paths if not any(text.strip() for text in tasks(Path(path)))]
    if bare:
        raise AptError(
            f"Stage 2 learns from instructions, and {', '.join(bare)} has no task text. Train Stage 1 on it "
            "(--apt.stage1.dataset-path: it needs no language), mix it in (--apt.mix.root, --apt.mix.share), or name "
            "labelled data for Stage 2."
        )


def tasks(folder: Path) -> list[str]:
    """The instructions of a data set, empty ones among them."""
    file = folder / "meta" / "tasks.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [str(json.loads(line).get("task", "")) for line in lines if line.strip()]


def check_sets(paths: Iterable[str]) -> None:
    """
    Raises:
        AptError: a folder that is no data set; the host would end in a traceback.
    """
    for path in paths:
        if not (Path(path) / "meta" / "info.json").is_file():
            raise AptError(
                f"There is no data set at {path} (no meta/info.json). The host reads LeRobot v2.1 folders; several are "
                f"joined by {os.pathsep!r}."
            )


def facts(config: Any) -> dict[str, dict[str, Any]]:
    """Embodiment -> modality -> what a step of it holds: the keys in their order, and the times.

    Args:
        config: the host's `config.data`.
    """
    found = {}
    for tag in sorted({one.embodiment_tag for one in config.datasets}):
        parts = config.modality_configs.get(tag, {})
        seen = {kind: parts[kind] for kind in ("video", "state", "action") if kind in parts}
        found[tag] = {kind: [list(part.modality_keys), list(part.delta_indices)] for kind, part in seen.items()}
    return found


def mix(config: Any, wanted: Mix) -> list[str]:
    """Add the unlabelled data of Stage 2 to the host's `config.data`, as a share of all frames; their folders.

    Raises:
        AptError: a setting of the host under which the share would be another one, or several robots to choose from.
    """
    if wanted.share == 0:
        return []
    if config.ds_weights_alpha is not None:
        raise AptError(
            f"ds_weights_alpha is {config.ds_weights_alpha}: the host then weighs data sets by their length, and "
            f"mix.share={wanted.share} would mean nothing. Drop one of the two."
        )
    tags = sorted({one.embodiment_tag for one in config.datasets})
    if len(tags) > 1:
        raise AptError(
            f"mix.root holds data of one robot, and this run trains {', '.join(tags)}: nothing says which. Mix in a "
            "run of one embodiment."
        )
    first, total = config.datasets[0], sum(one.mix_ratio for one in config.datasets)
    for one in config.datasets:
        one.mix_ratio = one.mix_ratio * (1 - wanted.share)
    more = {"dataset_paths": [wanted.root], "mix_ratio": total * wanted.share}
    config.datasets.append(type(first)(**{**vars(first), **more}))
    return [wanted.root]


def keep_statistics(config: Any, wanted: str) -> None:
    """Which statistics Stage 2 normalises with: Stage 1's, which its checkpoint carries, or those of its own data.

    Args:
        config: the host's `config.data`; wanted: the recipe's norm_stats.
    """
    config.override_pretraining_statistics = wanted == "data"
    whose = "its own data's" if wanted == "data" else "Stage 1's"
    logger.info("APT: norm_stats=%s: Stage 2 normalises states and actions by %s statistics.", wanted, whose)


def install(blank: Iterable[str] = (), unlabelled: bool = False) -> None:
    """Let the host's episode loader read data without language annotation, under the empty instruction.

    Args:
        blank: data sets whose instructions are blanked even where they have some (Stage 2's mix).
        unlabelled: data sets without annotation are accepted (Stage 1; the mix of Stage 2 always).
    """
    from gr00t.data.dataset import lerobot_episode_loader as host

    if _INSTALLED:
        return
    blanked = {Path(path).resolve() for path in blank}
    cls = host.LeRobotEpisodeLoader
    read, words = cls._load_parquet_data, cls.create_language_from_meta

    def without(loader: Any) -> bool:
        if Path(loader.dataset_path).resolve() in blanked:
            return True
        keys = loader.modality_configs["language"].modality_keys if "language" in loader.modality_configs else []
        known = loader.modality_meta.get("annotation", {})
        lacks = not loader.tasks_map or any(
            k not in host.LANG_KEYS and k.removeprefix("annotation.") not in known for k in keys
        )
        return unlabelled and lacks

    def load_parquet(loader: Any, episode_index: int) -> Any:
        if not without(loader):
            return read(loader, episode_index)
        configs = loader.modality_configs
        loader.modality_configs = {k: v for k, v in configs.items() if k != "language"}
        try:
            frame = read(loader, episode_index)
        finally:
            loader.modality_configs = configs
        for key in configs["language"].modality_keys if "language" in configs else []:
            if key not in host.LANG_KEYS:
                frame[f"language.{key}"] = CONSTANT
        return frame

    def language_from_meta(loader: Any, episode_meta: dict, nframes: int, lang_key: str) -> list[str]:
        if without(loader) or (unlabelled and not episode_meta.get("tasks" if lang_key == "task" else "sub_tasks")):
            return [CONSTANT] * nframes
        return words(loader, episode_meta, nframes, lang_key)

    def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(file).name == host.LEROBOT_TASKS_FILENAME and not Path(file).exists():
            return io.StringIO("")  # no task table: no instruction, which is what the empty map says
        return open(file, *args, **kwargs)

    _INSTALLED.set(cls, "_load_parquet_data", load_parquet)
    _INSTALLED.set(cls, "create_language_from_meta", language_from_meta)
    if unlabelled:
        _INSTALLED.set(host, "open", opened, new=True)


def uninstall() -> None:
    """Put the host's functions back."""
    _INSTALLED.restore()
