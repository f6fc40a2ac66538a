"""Which policy a checkpoint of openpi holds, and with which config, statistics and data it was trained."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from openpi.models import pi0_config
from openpi.shared import download, normalize
from openpi.training import config as _config

from apt_plugin.errors import AptError, choose
from apt_plugin.files import numbered
from apt_plugin.hosts.openpi import checkpoints, loading, preload, records
from apt_plugin.hosts.openpi.config import AptPi0Config, apt_config
from apt_plugin.hosts.openpi.listen_models import JaxPolicy, TorchPolicy
from apt_plugin.hosts.openpi.loading import PARAMS, WEIGHTS
from apt_plugin.hosts.openpi.names import ASSETS
from apt_plugin.hosts.openpi.trained import as_trained
from apt_plugin.recipe import Mix, Recipe
from apt_plugin.stages import PRIOR, RECORD, Record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A policy in inference and where it came from."""

    policy: JaxPolicy | TorchPolicy
    model: AptPi0Config
    stock: Any  # the TrainConfig; of an APT checkpoint, the derived one
    folder: Path
    record: Record | None  # None: stock

    @property
    def config(self) -> str:
        """The stock config's name."""
        return self.stock.name if self.record is None else self.stock.data.stock_name


def step_of(path: str) -> Path:
    """The step folder of a checkpoint named by itself, by its `params` or `assets`, or by its run (the newest step).

    Raises:
        AptError: nothing of openpi there.
    """
    folder = Path(download.maybe_download(path)) if "://" in path else Path(path)
    folder = folder.parent if folder.name in (PARAMS, "assets") else folder
    for step in (folder, *(step for _, step in reversed(numbered(folder)))):
        if (step / PARAMS).is_dir() or (step / WEIGHTS).is_file():
            return step.resolve()
    raise AptError(f"{path} holds no checkpoint of openpi: neither {PARAMS}/ (JAX) nor {WEIGHTS} in it or in a step.")


def config_of(folder: Path, record: Record | None, name: str) -> Any:
    """The stock TrainConfig that a checkpoint was trained with.

    Raises:
        AptError: not named and not to be told from the folder, or no such config.
    """
    if not name and record is not None:
        name = records.stock_config_name(folder)
    if not name and folder.parent.parent.name in _config._CONFIGS_DICT:  # <config>/<exp name>/<step>
        name = folder.parent.parent.name
        logger.info("listen: config %s, by the checkpoint's folder", name)
    if not name:
        raise AptError(
            "A stock openpi checkpoint does not say which training config it belongs to: add --config, e.g. "
            "--config pi05_libero. Configs of your own are found when APT_PRELOAD names their module."
        )
    name = name.removesuffix("_apt1").removesuffix("_apt2")
    return _config._CONFIGS_DICT[choose("--config", name, _config._CONFIGS_DICT)]


def read(path: str, config: str = "", device: str = "") -> Source:
    """The policy of scripts/train.py or train_pytorch.py, stock or ours.

    Raises:
        AptError: see `step_of` and `config_of`; a FAST config; weights that do not fit the config.
    """
    preload()
    folder = step_of(path)
    record = checkpoints.record_of(folder)[1] if (folder / "assets" / RECORD).is_file() else None
    stock = config_of(folder, record, config)
    if record is None:
        model: Any = as_stock(stock.model)
    else:
        recipe = dataclasses.replace(record.recipe, mix=Mix())  # labelled data alone can be asked about
        stock = as_trained(stock, folder, record, recipe)
        model = stock.model
    if not (folder / WEIGHTS).is_file():
        return Source(JaxPolicy(read_jax(folder, model)), model, stock, folder, record)
    # max-autotune is the host's default, and would compile a sampler that nobody calls
    port = dataclasses.replace(stock.model if record is None else model, pytorch_compile_mode=None)
    made = port.load_pytorch(dataclasses.replace(stock, model=port), str(folder / WEIGHTS))
    return Source(TorchPolicy(made, device), model, stock, folder, record)


def data_of(source: Source) -> Any:
    """openpi's DataConfig with the transforms and statistics that the policy was trained with.

    Raises:
        AptError: see `statistics`.
    """
    if source.record is None:
        data, ours = source.stock.data.create(source.stock.assets_dirs, source.stock.model), ""
    else:
        data = source.stock.data.create(source.stock.assets_dirs, source.model)
        ours = records.stock_assets(source.folder)
    return dataclasses.replace(data, norm_stats=statistics(source.folder, data, ours))


def as_stock(model: Any) -> AptPi0Config:
    """A stock model config in our class, under rules that change nothing; LoRA variants keep their factors.

    Raises:
        AptError: no π0 / π0.5 model.
    """
    apt_config(model, PRIOR, Recipe(vlm="frozen"))  # refuses FAST, with the reason
    values = {f.name: getattr(model, f.name) for f in dataclasses.fields(pi0_config.Pi0Config)}
    return AptPi0Config(**values, apt_stage=PRIOR, apt_recipe=Recipe(prefix="native", vlm="frozen"))


def read_jax(folder: Path, config: AptPi0Config) -> Any:
    """The model in the dtype that its config computes in (the host's server loads bfloat16 always).

    Raises:
        AptError: weights of another config.
    """
    # A marked checkpoint needs its reader, where this version of the plugin marks them
    read = loading.read_params
    params = read(folder / PARAMS, dtype=jnp.dtype(config.dtype))
    lora = sorted(name for name in loading.flat(params) if "lora" in name)
    if lora and "lora" not in config.paligemma_variant + config.action_expert_variant:
        raise AptError(
            f"{folder} holds LoRA factors (such as {lora[0]}), and this config has none: it would run without them. "
            "Name the LoRA config that it was trained with."
        )
    try:
        return config.load(params)
    except AptError:
        raise
    except ValueError as error:
        raise AptError(
            f"The weights of {folder} do not fit the config: name the one they were trained with.\n{error}"
        ) from error


def statistics(folder: Path, data: Any, ours: str) -> dict[str, Any]:
    """Norm stats of the checkpoint itself, as the host's server takes them.

    Args:
        ours: the asset id in a checkpoint of ours, "" for a stock one.

    Raises:
        AptError: none in the checkpoint, and none for the config.
    """
    assets = folder / "assets" / ASSETS if ours else folder / "assets"
    wanted = ours or data.asset_id or ""
    found = sorted(str(path.parent.relative_to(assets)) for path in assets.rglob("norm_stats.json"))
    if wanted not in found and len(found) == 1:  # trained with --data.repo-id or --data.assets.asset-id
        logger.info("listen: norm stats of %s, the checkpoint has none of %s", found[0], wanted)
        wanted = found[0]
    if wanted in found:
        return normalize.load(assets / wanted)
    if data.norm_stats is not None:
        logger.warning("listen: %s has no norm stats of %s; taking the config's own.", folder, wanted)
        return data.norm_stats
    raise AptError(
        f"{assets} has no norm stats of {wanted!r} (it has: {', '.join(found) or 'none'}), and the config none either. "
        "Name the config that the checkpoint was trained with, or run scripts/compute_norm_stats.py for it."
    )
