"""Where a policy's weights may come from, checked before any model is built.

lerobot's own π loaders catch every loading error, print it and train from noise (its issue 4577); this one stops.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apt_plugin import files, freeze, seal
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import facts, written
from apt_plugin.hosts.lerobot.families import POLICIES, host_type, unsized
from apt_plugin.hosts.lerobot.names import ADAPTER_WEIGHTS, CONFIG, FREE, WEIGHTS
from apt_plugin.hosts.lerobot.steps import check_steps
from apt_plugin.hub import local_folder
from apt_plugin.recipe import flatten, from_flat
from apt_plugin.stages import LIKELIHOOD, RECORD, Record, check_stage1, read_record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A checkpoint folder and what it is to the policy that loads it."""

    folder: Path
    kind: str  # "host": plain lerobot weights; "prior": Stage 1 for a Stage 2; "same": our own, same stage
    record: Record | None
    adapters: Source | None = None  # our own LoRA checkpoint on top, which the host loads next; kind "same"

    @property
    def files(self) -> list[Path]:
        return files.weight_files(self.folder, WEIGHTS)


def config_of(path: str | Path, **given: Any) -> Any:
    """The policy config of a checkpoint; `given`: what the caller of the host's from_pretrained wrote."""
    from lerobot.configs import PreTrainedConfig

    if Path(path).is_dir():
        written.check(Path(path))
    hub = ("force_download", "token", "cache_dir", "local_files_only", "revision")
    return PreTrainedConfig.from_pretrained(path, **{k: v for k, v in given.items() if k in hub})


def inspect(path: str | Path, config: Any, dataset_meta: Any = None, **download: Any) -> Source:
    """Say what `path` is for a policy of `config`, and refuse what it cannot be.

    Raises:
        AptError: wrong policy type, a stage that does not follow, settings that disagree, truncated or changed files,
            adapters that were trained on another base.
    """
    source = _weights(path, config, dataset_meta, **download)
    return replace(source, adapters=_adapters(config, source))


def check_sealed(folder: Path, record: Record) -> None:
    """
    Raises:
        AptError: a file beside the weights was changed; without a seal, config.json says another recipe.
    """
    seal.check(record.sealed, [folder], FREE)
    saved = files.read_json(folder / CONFIG).get("recipe")
    if record.sealed is None and saved is not None and from_flat(flatten(saved)) != record.recipe:
        raise AptError(
            f"{folder / CONFIG} holds another recipe than the {RECORD} beside it: one was edited after the checkpoint "
            "was written. Restore the file, or use another checkpoint."
        )


def _adapters(config: Any, base: Source) -> Source | None:
    """What PEFT puts on top of `base` next: the host names it as the config's own path."""
    if not getattr(config, "use_peft", False) or not config.pretrained_path:
        return None
    folder = local_folder(config.pretrained_path)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        return None
    check_steps(folder)
    record = read_record(folder)
    files.check_safetensors(folder / ADAPTER_WEIGHTS, record.weights)
    check_sealed(folder, record)
    before = (record.stage1 or {}).get("weights")
    if base.record is not None and before not in (None, base.record.weights):
        raise AptError(
            f"The adapters in {folder} were trained on another base: {base.folder} holds weights "
            f"{base.record.weights[:12]} now, and they began on {before[:12]}. Restore that base, or train Stage 2 "
            "anew."
        )
    return Source(folder, "same", record)


def _weights(path: str | Path, config: Any, dataset_meta: Any = None, **download: Any) -> Source:
    folder = local_folder(path, **download)
    family = host_type(config.type)
    host_config = files.read_json(folder / "config.json")
    kind = host_config.get("type")
    if kind == config.type:
        check_steps(folder)  # of a checkpoint of ours the host, or our Stage 2, reads the processors next
        record = read_record(folder)
        check_sealed(folder, record)
        if record.stage == config.stage:
            files.check_safetensors(folder / WEIGHTS, record.weights)
            return Source(folder, "same", record)
        if config.stage == LIKELIHOOD:
            now = facts.of(config, dataset_meta)
            return Source(
                folder, "prior", check_stage1(folder, family, config.recipe, WEIGHTS, now, facts.flags_of(config))
            )
        raise AptError(f"{folder} is a Stage-2 result; Stage 1 starts from {family} weights or resumes a Stage 1.")
    if kind == family or (kind is not None and unsized(kind) == family):
        if config.stage == LIKELIHOOD:
            check_stage1(folder, family, config.recipe, WEIGHTS)  # has no apt.json: says what to do
        if (folder / RECORD).exists():
            raise AptError(f"{folder} has an {RECORD} but calls itself {kind!r}: its config.json was edited.")
        for path in files.weight_files(folder, WEIGHTS):
            files.check_safetensors(path)
        return Source(folder, "host", None)
    if kind in POLICIES.values():
        read_record(folder)
    raise AptError(
        f"{folder} holds a {kind!r} policy; {config.type} loads {family!r} or {config.type!r} weights. APT in lerobot "
        f"knows {', '.join(f'{host} -> {apt}' for host, apt in POLICIES.items())}."
    )


def log_source(source: Source, policy: Any, loaded: list[str], fresh: set[str]) -> None:
    added = sum(p.numel() for n, p in policy.named_parameters() if freeze.added(n))
    logger.info(
        "APT: %d tensors from %s (%s); %d start fresh; %d parameters added (apt_*).",
        len(loaded), source.folder, source.kind, len(fresh), added,
    )  # fmt: skip
