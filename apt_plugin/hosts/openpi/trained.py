"""The config that an APT checkpoint was trained with, whatever the host's config of that name says now (contract 8).

Every door that opens a checkpoint comes through here: the server under the launcher, the patched server, `listen`.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from apt_plugin.agreement import differences
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import loading, records
from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.derive import derive
from apt_plugin.hosts.openpi.facts import comparable, facts_of, settings
from apt_plugin.recipe import Recipe
from apt_plugin.stages import Record

logger = logging.getLogger(__name__)

OF_THE_MACHINE = ("pytorch_compile_mode",)  # how a model runs, not what it is


def as_trained(stock: Any, folder: Path, record: Record, recipe: Recipe | None = None) -> Any:
    """The derived config of a checkpoint, with one line in the log per field in which `stock` says otherwise.

    Args:
        stock: the TrainConfig that was named. folder: the checkpoint's step. recipe: another one than the record's.

    Raises:
        AptError: weights that are not the ones that were written; a config that cannot be corrected, because it reads
            or normalises the robot's numbers otherwise.
    """
    records.check_whole(folder, record, weights=False)  # they take longest, and come last
    saved = records.model_config(folder)
    apt_config(stock.model, record.stage, record.recipe)  # refuses FAST, with the reason
    if stock.model.pi05 != saved.pi05:
        raise AptError(
            f"{stock.name} builds {'π0.5' if stock.model.pi05 else 'π0'}, and {folder} holds the other family. "
            f"Name the config that it was trained with: {records.stock_config_name(folder)}."
        )
    model = dataclasses.replace(saved, **{name: getattr(stock.model, name) for name in OF_THE_MACHINE})
    # LoRA of the VLM is the recipe's to choose, so both are compared as the recipe makes them
    named, meant = (apt_config(m, record.stage, record.recipe) for m in (stock.model, model))
    _say(stock.name, named, meant, [f.name for f in dataclasses.fields(saved)])
    facts, factory = record.facts or {}, stock.data
    asked = {name: facts.get(f"data.{name}", value) for name, value in settings(factory).items()}
    plain = {name: value for name, value in asked.items() if isinstance(value, bool | int | float)}
    trained = dataclasses.replace(factory, **plain)
    _say(stock.name, factory, trained, list(plain))
    now = facts_of(model, trained, stock.assets_dirs)
    if left := differences(comparable(facts, now), now):
        lines = "\n  ".join(f"{name}: {now}, trained with {before}" for name, (before, now) in left.items())
        raise AptError(
            f"{stock.name} does not read the robot's numbers as {folder} was trained to:\n  {lines}\nName the config "
            f"that it was trained with: {records.stock_config_name(folder)}."
        )
    loading.check_weights(folder, record)
    config = derive(dataclasses.replace(stock, model=model, data=trained), record.stage, recipe or record.recipe)
    data = dataclasses.replace(config.data, asset_id=records.stock_assets(folder))
    return dataclasses.replace(config, data=data)


def _say(config: str, named: Any, meant: Any, fields: list[str]) -> None:
    for name in fields:
        here, there = getattr(named, name), getattr(meant, name)
        if here != there:
            logger.info("APT: %s is %s, as this checkpoint was trained (%s says %s).", name, there, config, here)
