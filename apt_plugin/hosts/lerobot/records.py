"""What an APT policy writes beside its weights, and reads back: hashes, curve, provenance."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apt_plugin import agreement, files, freeze, seal, stages
from apt_plugin.backends import torch_absent, torch_params, torch_ranks
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.lerobot import facts, goals, loading, preflight, renaming, training, warmup
from apt_plugin.hosts.lerobot.families import host_type
from apt_plugin.hosts.lerobot.groups import vlm_digest
from apt_plugin.hosts.lerobot.names import ADAPTER_CONFIG, CONFIG, WEIGHTS
from apt_plugin.run import lock
from apt_plugin.run.flags import Flags
from apt_plugin.run.state import StageState
from apt_plugin.stages import LIKELIHOOD

logger = logging.getLogger(__name__)


def check_data(config: Any, dataset_meta: Any) -> None:
    """What the recipe needs of a data set, before a model is built.

    Raises:
        AptError: cameras under other names; for Stage 2 no task at all, or only empty ones; what needs the launcher;
            a version of the host that nobody tested; by the host's own command, what a launcher would look for.
    """
    if dataset_meta is not None:
        HOSTS["lerobot"].require_training()
        if not training.installed() and (folder := Flags.read(sys.argv[1:], switches=True).get("output_dir")):
            lock.hold(Path(folder))  # the host's own command: no launcher has it
        if not training.installed():
            torch_ranks.keep_group()
            preflight.native(str(config.stage))
            warmup.join(config)
    if dataset_meta is not None and config.recipe.cache and not training.installed():
        raise AptError(
            "recipe.cache needs the launcher, which takes the images out of the training script's data: apt-plugin run "
            "lerobot-train ... --recipe apt --apt.cache DIR. Without it: --policy.recipe.cache=''."
        )
    if dataset_meta is not None and goals.wanted(config) and not training.installed():
        raise AptError(
            "recipe.prior.goal needs the launcher, which reads a second state for the training script: apt-plugin run "
            "lerobot-train ... --recipe apt --apt.prior.goal state. Without it: --policy.recipe.prior.goal=none."
        )
    if dataset_meta is not None:
        renaming.check_cameras(config, dataset_meta.features)
    if config.stage != LIKELIHOOD or dataset_meta is None:
        return
    if config.recipe.mix.share > 0 and not training.installed():
        raise AptError(
            "recipe.mix needs the launcher, which adds the second data set to the training script: apt-plugin run "
            "lerobot-train ... --recipe apt --apt.mix.share 0.5 --apt.mix.repo_id ..."
        )
    tasks = getattr(dataset_meta, "tasks", None)
    texts = [] if tasks is None else [str(task).strip() for task in tasks.index]
    if not any(texts):
        what = "has no task annotation" if not texts else f"has {len(texts)} task(s), all of them empty"
        raise AptError(
            f"Stage 2 learns from instructions, and {getattr(dataset_meta, 'repo_id', 'the data set')} {what}. Train "
            "Stage 1 on it (which needs no language), or name labelled data for Stage 2."
        )
    if len(set(texts)) == 1:
        logger.warning("APT: the data set has one instruction only (%r): it cannot teach a policy to listen.", texts[0])


def state_of(config: Any) -> StageState:
    """The state of a stage that begins."""
    host = HOSTS["lerobot"].written()
    return StageState(config.stage, config.recipe, host_type(config.type), host)


def restore(policy: Any, source: loading.Source, named: str) -> None:
    """Continue our own checkpoint where it stopped, or note where this stage begins; `named`: as the user wrote it."""
    source = source.adapters or source
    if source.kind == "host":
        policy.apt_run.began_with(named)
    elif source.kind == "same" and source.record is not None:
        policy.apt_run.resume(source.folder, source.record)
    elif source.kind == "prior" and source.record is not None:
        policy.apt_run.after(source.folder, source.record)


def save(policy: Any, folder: Path, save_weights: Callable[[], None]) -> None:
    """Write weights and record so that a reader meets both or neither.

    Raises:
        AptError: a parameter is not finite, or a frozen VLM has changed; nothing is written then.
    """
    policy.apt_run.check(vlm_digest(policy), torch_params.first_non_finite(policy))
    save_weights()
    if not torch_ranks.writes():
        return  # a host that saves on every rank (lerobot main) writes on the first alone, and so do we
    if getattr(policy, "apt_absent", None) is not None:
        torch_absent.merge(folder / WEIGHTS, policy.apt_absent)
    with open(folder / WEIGHTS, "rb") as file:
        os.fsync(file.fileno())
    write(policy, folder, WEIGHTS)


def write(policy: Any, folder: Path, weights: str) -> None:
    """The record of weights that lie in `folder`.

    Raises:
        AptError: see `StageState.check`.
    """
    shapes = {n: s for n, s in torch_params.shapes(policy).items() if ".lora_" not in n}
    record = policy.apt_run.record(
        vlm=vlm_digest(policy),
        weights=files.sha256_of(folder / weights),
        layout=freeze.layout(shapes),
        facts=agreement.plain(facts.of(policy.config)),
        sealed=seal.seal(path for name in (CONFIG, ADAPTER_CONFIG) if (path := folder / name).is_file()),
    )
    stages.write_record(folder, record)
